"""Back-pressure: a queue that never floods while workers are away, and never runs dry while they are fast."""

from __future__ import annotations

import json
import time
from statistics import median
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Perpetual
from tests.support import wait_until
from tests.support.contract import finish
from tests.support.stream_events import poll_events, polls_behind

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from tests.support import Project

ROWS, MOST, EVERY = 700, 200, 0.2

# The source is a row of numbers; a unit goes through it, and workers are faster than its interval.
SOURCE = f"""
def rows(poll):
    first = poll.cursor or 0
    found = range(first, min({ROWS}, first + poll.limit))
    return Batch([Item((n,), key=n) for n in found], cursor=found.stop)

@app.task(base=PerpetualTask, poll_every={EVERY}, next_batch=rows, max_in_flight={MOST}, ignore_result=True,
          perpetual_options=PerpetualOptions(low_water=190, history=10))
def work(n):
    time.sleep(0.01)
    ledger.record(n)
"""


@pytest.mark.slow
@pytest.mark.parametrize("polls", [20, pytest.param(600, marks=[pytest.mark.long, pytest.mark.timeout(400)])])
def test_the_queue_neither_floods_nor_runs_dry(
    project: Callable[..., Project], store_redis: redis.Redis, polls: int
) -> None:
    """Many polls without a worker: the room is never exceeded. With workers it never runs dry before its source does."""
    proj = project(SOURCE)
    proj.beat()
    waiting: list[int] = []
    in_flight: list[int] = []

    def sample() -> int:
        """Return how far the source has been read; all of it is read in one moment."""
        pipe = store_redis.pipeline(transaction=True)
        pipe.hget("perpetual:u:perpetual:proj.work", "cursor").llen("celery").hlen("unacked")
        cursor, queued, received = pipe.execute()
        if 0 < int(cursor or 0) < ROWS:
            waiting.append(queued)
        in_flight.append(queued + received)
        return int(cursor or 0)

    def seen() -> int:
        sample()
        return polls_behind(poll_events(store_redis, "proj.work"))

    wait_until(lambda: seen() >= polls, f"{polls} polls without a worker", timeout=30 + polls * EVERY * 2)
    assert {event.data["gate"] for event in poll_events(store_redis, "proj.work")[1:]} == {"max_in_flight"}
    assert set(in_flight) <= {0, MOST}
    assert set(waiting) == {MOST}

    proj.worker(concurrency=2)
    wait_until(lambda: sample() == ROWS, "the source has been read to its end", timeout=60, interval=0.01)
    assert min(waiting) > 0
    assert max(in_flight) <= MOST
    wait_until(lambda: store_redis.llen("celery") + store_redis.hlen("unacked") == 0, "drained", timeout=60)
    wait_until(lambda: len(proj.rows("ran")) == ROWS, "every row has been worked on")
    assert sorted(int(row.id) for row in proj.rows("ran")) == list(range(ROWS))
    triggers = {event.data["trigger"] for event in poll_events(store_redis, "proj.work") if event.status == "enqueued"}
    assert "refill" in triggers


DEEP = """
@app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: [Item((n,), key=False) for n in range(4)],
          perpetual_options=PerpetualOptions(max_queue_depth=7))
def work(n): ...

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: ledger.record("other"))
def other(): ...
"""


def test_a_deep_queue_of_rabbitmq_closes_the_gate(
    project: Callable[..., Project], store_redis: redis.Redis, rabbitmq_url: str
) -> None:
    """A real beat asks the broker itself: with seven messages or more the unit is not polled, and below it is again."""
    proj = project(DEEP, broker=rabbitmq_url)
    proj.beat()

    def gates() -> list[tuple[str, int, int]]:
        events = poll_events(store_redis, "proj.work")
        return [
            (each.data["gate"], each.data["value"], each.data["limit"]) for each in events if each.status == "skipped"
        ]

    wait_until(gates, "the gate is closed")
    enqueued = sum(event.data["count"] for event in poll_events(store_redis, "proj.work"))
    others = len(proj.rows())
    wait_until(lambda: len(proj.rows()) > others + 3, "other units are polled meanwhile")
    assert set(gates()) == {("max_queue_depth", enqueued, 7)}
    assert 8 <= enqueued <= 20, "one reading of the depth counts for a second"
    proj.worker(concurrency=1)
    wait_until(
        lambda: sum(event.data["count"] for event in poll_events(store_redis, "proj.work")) > enqueued,
        "it is polled when workers have taken messages",
    )


LOW = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((n,), key=False) for n in range(4)],
          perpetual_options=PerpetualOptions(low_water=3))
def work(n): ...
"""


def test_a_unit_is_refilled_within_a_tenth_of_a_second(
    project: Callable[..., Project], store_redis: redis.Redis, make_app: Callable[..., Celery]
) -> None:
    """From the end that leaves too few items to the messages of the next batch in the broker, by a real beat."""
    proj = project(LOW)
    proj.beat()
    perpetual = Perpetual(make_app("proj", broker_url=proj.url))
    taken = []
    for _ in range(15):
        wait_until(lambda: store_redis.llen("celery") >= 4, "a batch is there")
        ids = [json.loads(message)["headers"]["id"] for message in store_redis.lrange("celery", 0, -1)]
        store_redis.delete("celery")
        for task_id in ids[:-2]:
            begun = time.monotonic()
            finish(perpetual, task_id)
        wait_until(lambda: store_redis.llen("celery"), "the next batch", interval=0.001)
        taken.append(time.monotonic() - begun)
        for task_id in ids[-2:]:
            finish(perpetual, task_id)
    perpetual.store.close()
    assert median(taken) < 0.1
