"""The app that is measured, and run by a real worker afterwards. Its configuration comes from the environment.

Each round has tasks of its own, because a unit takes no more than ``max_in_flight`` items before a worker has run.
"""

from __future__ import annotations

import os
import time

import redis
from celery import Celery

from celery_perpetual import Item, Perpetual, PerpetualTask

BROKER, STORE = os.environ["BENCH_BROKER"], os.environ["BENCH_STORE"]
ITEMS, ROUNDS = int(os.environ["BENCH_ITEMS"]), int(os.environ["BENCH_ROUNDS"])

app = Celery("bench", broker=BROKER)
app.conf.update(
    perpetual_store_url=STORE,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True} if BROKER.startswith("amqp") else {},
    worker_prefetch_multiplier=64,
)
perpetual = Perpetual(app)
client = redis.Redis.from_url(STORE)

#: When the last ``next_batch`` returned.
returned = [0.0]


def ran(name: str, n: int) -> None:
    """Note in the store that item ``n`` of one measurement has run."""
    client.setbit(f"ran:{name}", n, 1)


def finder(*, keyed: bool):
    """A ``next_batch`` that says when it returned."""

    def found():
        items = [{"n": n} if keyed else Item(kwargs={"n": n}, key=False) for n in range(ITEMS)]
        returned[0] = time.perf_counter()
        return items

    return found


def make(name: str, *, keyed: bool):
    """A perpetual task of one measurement."""

    def body(n):
        ran(name, n)

    body.__name__ = name.replace("-", "_")
    return app.task(
        base=PerpetualTask, name=f"bench.{name}", poll_every=3600, next_batch=finder(keyed=keyed),
        max_in_flight=ITEMS, poll_timeout=600, ignore_result=True, shared=False,
    )(body)  # fmt: skip


keyed = [make(f"keyed-{n}", keyed=True) for n in range(ROUNDS)]
unkeyed = [make(f"unkeyed-{n}", keyed=False) for n in range(ROUNDS)]


@app.task(name="bench.plain", ignore_result=True, shared=False)
def plain(name, n):
    """The task that an ``apply_async`` loop sends."""
    ran(name, n)
