"""Several beats of one project, and what the one that leads has sent."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import psutil

from tests.support import wait_until
from tests.support.broker import Message, queued
from tests.support.stream_events import leader

if TYPE_CHECKING:
    from collections.abc import Sequence

    import redis

    from tests.support import CeleryProcess

TTL = 3
#: Seconds that two busy cores may add to a promised time.
MACHINE = 1.5
EVERY = 0.25
LEADER = {"perpetual_leader_ttl": TTL}

SLOTS = """
def slots(poll):
    return [Item(args=(poll.slot.isoformat(),))]

@app.task(base=PerpetualTask, poll_every=0.25, next_batch=slots)
def visit(slot): ...
"""

#: Ordinary entries beside it, in a queue of their own; each message says when it was sent.
ENTRIES = """
from celery.beat import BeatLazyFunc

@app.task
def entry(at): ...

def every(seconds, queue="entries"):
    options = {"queue": queue}
    return {"task": "proj.entry", "schedule": seconds, "kwargs": {"at": BeatLazyFunc(time.time)}, "options": options}
"""


def leading(store_redis: redis.Redis, beats: Sequence[CeleryProcess], timeout: float = 30) -> CeleryProcess:
    """Wait until one of these beats leads."""
    by_pid = {beat.pid: beat for beat in beats}

    def found() -> CeleryProcess | None:
        held = leader(store_redis)
        return by_pid.get(held[0]) if held else None

    beat = wait_until(found, f"one of the beats {sorted(by_pid)} leads", timeout)
    assert beat is not None
    return beat


def wait_for_more(store_redis: redis.Redis, number: int, pid: int, queue: str = "celery") -> list[Message]:
    """Wait until this process has sent so many further messages; return all of the queue."""

    def sent() -> int:
        return sum(message.pid == pid for message in queued(store_redis, queue))

    wanted = sent() + number
    wait_until(lambda: sent() >= wanted, f"process {pid} sends {number} more messages to {queue}", timeout=30)
    return queued(store_redis, queue)


def slot_of(message: Message) -> float:
    return datetime.fromisoformat(message.args[0]).timestamp()


def is_stopped(beat: CeleryProcess) -> bool:
    return psutil.Process(beat.pid).status() == psutil.STATUS_STOPPED
