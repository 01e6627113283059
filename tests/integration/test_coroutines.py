"""next_batch as a coroutine function or an asynchronous generator."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import poll_events, polls_behind

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

HANGING = """
import asyncio

async def hanging():
    try:
        await asyncio.sleep(3600)
    finally:
        ledger.record("hanging", "cancelled")
"""

SOURCE = (
    HANGING
    + """

async def listed(poll):
    await asyncio.sleep(0.01)
    return [(1,), (2,)]

async def generated():
    for number in (1, 2):
        await asyncio.sleep(0.01)
        yield (number,)

async def batched(poll):
    return Batch(generated(), cursor=[poll.cursor, "next"])

async def endless(poll):
    number = 0
    try:
        while True:
            number += 1
            yield (number,)
    finally:
        await asyncio.sleep(0.01)
        ledger.record("endless", "closed")

async def own_timeout():
    await asyncio.wait_for(asyncio.sleep(60), 0.05)

async def hanging_in_the_middle():
    yield (1,)
    await asyncio.sleep(3600)

async def dripping():
    for number in range(10_000):
        await asyncio.sleep(0.2)
        yield (number,)

class Deliver(PerpetualTask):
    name = "proj.method"
    poll_every = 3600

    async def next_batch(self, poll):
        yield Item((self.name,))

    def run(self, name): ...

app.register_task(Deliver())

def nothing(*args): ...

def perpetual_task(next_batch, **more):
    return app.task(base=PerpetualTask, name=f"proj.{next_batch.__name__}", poll_every=3600, next_batch=next_batch,
                    **more)(nothing)

for function in (listed, generated, batched, own_timeout):
    perpetual_task(function)
perpetual_task(endless, max_in_flight=3)
for function in (hanging, hanging_in_the_middle, dripping):
    perpetual_task(function, poll_timeout=0.5)
"""
)


@pytest.fixture
def proj(project: Callable[..., Project]) -> Project:
    return project(SOURCE)


def sent(client: redis.Redis) -> list[object]:
    return [message.args[0] for message in queued(client)]


def test_each_asynchronous_form_brings_its_items(console: Console, store_redis: redis.Redis) -> None:
    """A coroutine function, an asynchronous generator, a method, and a Batch over an asynchronous generator."""
    for name in ("listed", "generated", "batched"):
        outcome = console(f"perpetual.poll('proj.{name}')")
        assert (outcome["status"], outcome["count"], outcome["error"]) == ("enqueued", 2, None), name
    assert console("perpetual.poll('proj.method')")["count"] == 1

    assert sent(store_redis) == [1, 2, 1, 2, 1, 2, "proj.method"]
    assert console("perpetual.cursor('proj.batched')") == [None, "next"]


def test_an_endless_asynchronous_generator_is_read_up_to_the_room_and_closed(console: Console, proj: Project) -> None:
    """No more is asked of it than fits, and its own clean-up runs to the end."""
    outcome = console("perpetual.poll('proj.endless')")

    assert (outcome["status"], outcome["count"]) == ("enqueued", 3)
    assert len(proj.rows("closed")) == 1


def test_a_timeout_error_of_the_users_own_is_a_failure(console: Console) -> None:
    """asyncio.TimeoutError out of next_batch, well within poll_timeout, is `failed` as any other exception."""
    outcome = console("perpetual.poll('proj.own_timeout')")

    assert outcome["status"] == "failed"
    assert outcome["error"].startswith("TimeoutError")


@pytest.mark.parametrize("name", ["hanging", "hanging_in_the_middle", "dripping"])
def test_a_coroutine_that_takes_too_long_times_out_by_hand_too(
    console: Console, store_redis: redis.Redis, name: str
) -> None:
    """`poll()` returns `timed_out` soon after poll_timeout, nothing is enqueued, and no thread is left behind."""
    begun = time.monotonic()
    outcome = console(f"perpetual.poll('proj.{name}')")

    assert outcome["status"] == "timed_out"
    assert time.monotonic() - begun < 5
    assert sent(store_redis) == []
    assert console(f"perpetual.polls('proj.{name}')")[0]["status"] == "timed_out"
    wait_until(
        lambda: console("[t.name for t in __import__('threading').enumerate()]") == ["MainThread"], "its thread ends"
    )


def test_a_coroutine_that_hangs_in_beat_is_cancelled_and_its_thread_serves_others(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """With two poll threads and forty hanging coroutines, beat grows no threads, and the last task is polled on."""
    proj = project(
        HANGING
        + """
def nothing(): ...

for number in range(40):
    app.task(base=PerpetualTask, name=f"proj.hanging{number}", poll_every=0.5, poll_timeout=0.1,
             next_batch=hanging)(nothing)

async def fine():
    return [(1,)]

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=fine)
def work(n): ...
""",
        perpetual_poll_threads=2,
        perpetual_max_abandoned_polls=2,
    )
    beat = proj.beat()

    wait_until(lambda: len(proj.rows("cancelled")) >= 40, "forty coroutines are cancelled")
    threads = psutil.Process(beat.pid).num_threads()
    before = polls_behind(poll_events(store_redis, "proj.work"))
    wait_until(
        lambda: polls_behind(poll_events(store_redis, "proj.work")) >= before + 3, "the other one is polled on", 20
    )

    hanging = [event for event in poll_events(store_redis) if event.unit != "perpetual:proj.work"]
    assert {event.status for event in hanging} == {"timed_out"}
    assert {event.status for event in poll_events(store_redis, "proj.work")} == {"enqueued", "empty"}
    assert sent(store_redis) == [1]
    assert threads <= 2 + 2 + 10


def test_a_coroutine_in_a_worker_is_cancelled_too(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """In a prefork child as in a thread of a worker, the poll ends as timed_out and the coroutine's clean-up runs."""
    proj = project(
        HANGING
        + """
@app.task(base=PerpetualTask, poll_every=3600, poll_timeout=0.5, next_batch=hanging,
          perpetual_options=PerpetualOptions(poll_in="worker"))
def work(n): ...
"""
    )
    proj.beat()
    proj.worker(concurrency=1)

    wait_until(lambda: poll_events(store_redis), "the poll has an outcome")
    wait_until(lambda: proj.rows("cancelled"), "the coroutine is cancelled")

    assert [event.status for event in poll_events(store_redis)] == ["timed_out"]
