"""RQ, driven by :mod:`peers`: ``enqueue`` in a loop and ``enqueue_many``."""

from __future__ import annotations

import sys
import time

import redis
from peers import serve
from rq import Queue

CLIENT = redis.Redis.from_url(sys.argv[1])
QUEUE = Queue("peer", connection=CLIENT)
TASK = "math.fsum"


def enqueue(count: int) -> float:
    """Seconds for so many jobs, one by one."""
    begun = time.perf_counter()
    for n in range(count):
        QUEUE.enqueue(TASK, kwargs={"name": "rq", "n": n})
    return time.perf_counter() - begun


def enqueue_many(count: int) -> float:
    """Seconds for so many jobs in one call."""
    begun = time.perf_counter()
    QUEUE.enqueue_many([Queue.prepare_data(TASK, kwargs={"name": "rq", "n": n}) for n in range(count)])
    return time.perf_counter() - begun


def empty() -> int:
    """Throw everything away; how many jobs there were."""
    waiting = len(QUEUE)
    CLIENT.flushdb()
    return waiting


if __name__ == "__main__":
    serve({"enqueue": enqueue, "enqueue_many": enqueue_many, "empty": empty})
