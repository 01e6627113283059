"""Polls that run in workers: with an outcome like any other, outliving their beat, ended when they hang."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_STANDBY, POLL_STALE
from celery_perpetual.polling.outcome import from_entry
from tests.support import wait_until
from tests.support.stream_events import leader, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

IN_WORKER = 'perpetual_options=PerpetualOptions(poll_in="worker")'

ONE = f"""
def rows(poll):
    ledger.record(poll.poll_id, "polled")
    return []

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, {IN_WORKER})
def work(): ...
"""
UNIT = "perpetual:proj.work"


def test_a_poll_in_a_worker_enqueues_moves_the_cursor_and_leaves_an_outcome(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """next_batch runs in the worker's children; items, cursor and outcomes are those of polls in beat."""
    proj = project(
        f"""
        def rows(poll):
            ledger.record(poll.poll_id, "polled")
            first = poll.cursor or 0
            return Batch([(n,) for n in range(first, first + 3)], cursor=first + 3)

        @app.task(base=PerpetualTask, poll_every=0.5, next_batch=rows, {IN_WORKER})
        def work(n):
            ledger.record(n)
        """
    )
    proj.beat()
    worker = proj.worker().ready()
    children = set(worker.children())

    wait_until(lambda: len(proj.rows("ran")) >= 12, "the items of four polls run")
    polled = proj.rows("polled")
    ran = [int(row.id) for row in proj.rows("ran")]
    outcomes = poll_events(store_redis, "proj.work")

    assert {row.pid for row in polled} <= children
    assert sorted(ran) == list(range(len(ran)))
    assert [outcome.status for outcome in outcomes] == ["enqueued"] * len(outcomes)
    stored = [from_entry(entry.encode()) for entry in store_redis.lrange(f"perpetual:polls:{UNIT}", 0, -1)]
    assert [outcome.cursor for outcome in reversed(stored)] == [3 * n for n in range(1, len(stored) + 1)]
    assert {outcome.data["poll_id"] for outcome in outcomes[:4]} <= {row.id for row in polled}
    assert store_redis.llen(f"perpetual:polls:{UNIT}") >= 4
    slots = [outcome.slot for outcome in outcomes]
    assert [round((slot - slots[0]) / 0.5, 3) % 1 for slot in slots] == [0] * len(slots)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_polls_in_workers_outlive_the_beat_that_claimed_them(
    project: Callable[..., Project], store_redis: redis.Redis, number: signal.Signals
) -> None:
    """Twenty polls that are open while the lead changes hands are all accepted; none is superseded."""
    proj = project(
        f"""
        def waiting(poll):
            if os.path.exists("released"):
                return None
            ledger.record(poll.task, "begun")
            while not os.path.exists("released"):
                time.sleep(0.05)
            return [Item((poll.poll_id,), task="proj.item", queue="items")]

        def nothing(): ...

        @app.task
        def item(poll_id): ...

        for number in range(20):
            app.task(base=PerpetualTask, name=f"proj.work{{number}}", poll_every=1, poll_timeout=40,
                     next_batch=waiting, {IN_WORKER})(nothing)
        """,
        perpetual_leader_ttl=3,
    )
    proj.worker(pool="threads", concurrency=20).ready()
    first = proj.beat()
    wait_until(lambda: leader(store_redis), "the first beat leads")
    second = proj.beat()
    second.wait_for_event(LEADER_STANDBY)
    wait_until(lambda: len(proj.rows("begun")) == 20, "twenty polls run")

    first.signal(number)
    first.wait()
    wait_until(lambda: (leader(store_redis) or (0, 0))[0] == second.pid, "the other beat leads")
    # The new leader leaves alone the polls that it finds open at the next slot.
    led_from = time.time()
    wait_until(lambda: time.time() > led_from + 1.5, "a slot of every unit is over")
    proj.write("released", "")
    wait_until(lambda: store_redis.llen("items") == 20, "every batch is accepted")
    wait_until(lambda: len(poll_events(store_redis)) >= 40, "every unit is polled again")
    outcomes = poll_events(store_redis)

    assert len(proj.rows("begun")) == 20
    assert {outcome.status for outcome in outcomes} == {"enqueued", "empty"}
    assert sum(outcome.data["count"] for outcome in outcomes) == 20
    assert len({outcome.unit for outcome in outcomes if outcome.status == "enqueued"}) == 20


@pytest.mark.slow
def test_a_worker_killed_in_a_poll_costs_a_back_off(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Its claim lasts no longer than poll_timeout, however long the message waited; then another worker polls."""
    proj = project(
        f"""
        def rows(poll):
            ledger.record(f"{{poll.attempt}} {{poll.trigger}}", "polled")
            if poll.attempt == 0:
                time.sleep(300)
            return [(1,)]

        @app.task(base=PerpetualTask, poll_every=2, poll_timeout=3, next_batch=rows, queue="items", {IN_WORKER})
        def work(n): ...
        """
    )
    proj.beat()
    # The leader has seen the open claim by then, and would look again when the message expires.
    wait_until(lambda: (store_redis.zscore("perpetual:due", UNIT) or 0) / 1000 > time.time() + 30, "the message waits")
    first = proj.worker("-Q", "items", concurrency=1).ready()
    wait_until(lambda: proj.rows("polled"), "the poll runs")

    first.kill9()
    proj.worker("-Q", "items", concurrency=1)
    wait_until(lambda: len(proj.rows("polled")) == 2, "the unit is polled again", timeout=60)
    wait_until(lambda: len(poll_events(store_redis)) >= 2, "and has an outcome")
    abandoned, enqueued = poll_events(store_redis)[:2]

    assert [row.id for row in proj.rows("polled")][:2] == ["0 schedule", "1 backoff"]
    assert (abandoned.status, enqueued.status) == ("abandoned", "enqueued")
    assert 3 < abandoned.written - proj.rows("polled")[0].time < 8
    assert 0 <= enqueued.slot - abandoned.written < 31


HANGING = """
def hang(poll):
    ledger.record("hang", "polled")
    {body}

def healthy():
    ledger.record("healthy", "polled")

@app.task(base=PerpetualTask, poll_every=1, poll_timeout=1, next_batch=hang, {in_worker})
def hanging(): ...

@app.task(base=PerpetualTask, poll_every=1, next_batch=healthy, {in_worker})
def other(): ...
"""
STUBBORN = """while True:
        try:
            time.sleep(300)
        except BaseException:
            pass"""


@pytest.mark.parametrize(
    ("body", "status"), [("time.sleep(300)", "timed_out"), (STUBBORN, "abandoned")], ids=["asleep", "stubborn"]
)
def test_a_next_batch_that_hangs_in_a_worker_is_ended(
    project: Callable[..., Project], store_redis: redis.Redis, body: str, status: str
) -> None:
    """Its child survives the time limit, or is replaced where the code swallows it; other polls go on there."""
    proj = project(HANGING.format(body=body, in_worker=IN_WORKER))
    proj.beat()
    proj.worker(concurrency=1)
    hung = wait_until(lambda: [row for row in proj.rows("polled") if row.id == "hang"], "the poll hangs")

    wait_until(lambda: poll_events(store_redis, "proj.hanging"), "it has an outcome")
    later = wait_until(
        lambda: [row for row in proj.rows("polled") if row.id == "healthy" and row.time > hung[0].time],
        "the other task is polled in the one child of the worker",
    )

    assert [outcome.status for outcome in poll_events(store_redis, "proj.hanging")] == [status]
    assert (later[0].pid == hung[0].pid) is (status == "timed_out")


def test_a_poll_message_that_comes_twice_does_nothing_the_second_time(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A repeated message of a poll that has ended calls no next_batch and leaves no outcome."""
    proj = project(ONE)
    proj.beat()
    message = wait_until(lambda: store_redis.lindex("celery", 0), "the poll is on its way")
    worker = proj.worker(concurrency=1)
    wait_until(lambda: poll_events(store_redis), "it has an outcome")

    store_redis.lpush("celery", message)
    worker.wait_for_event(POLL_STALE)

    assert len(proj.rows("polled")) == 1
    assert [outcome.status for outcome in poll_events(store_redis)] == ["empty"]


def test_a_poll_message_whose_claim_has_expired_does_nothing(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A worker that comes too late calls no next_batch: the poll is abandoned, and the unit backs off."""
    proj = project(ONE)
    proj.beat()
    wait_until(lambda: store_redis.llen("celery"), "the poll is on its way")
    wait_until(lambda: store_redis.hget(f"perpetual:u:{UNIT}", "claimed").endswith(" "), "and belongs to no term")

    # As if the minutes that it may wait were over.
    slot, started, _, trigger, _ = store_redis.hget(f"perpetual:u:{UNIT}", "claimed").split(" ")
    store_redis.hset(f"perpetual:u:{UNIT}", "claimed", f"{slot} {started} 1 {trigger} ")
    store_redis.zadd("perpetual:due", {UNIT: 1})
    wait_until(lambda: poll_events(store_redis), "the claim has an end")
    proj.worker(concurrency=1).wait_for_event(POLL_STALE)

    assert proj.rows("polled") == []
    assert [outcome.status for outcome in poll_events(store_redis)] == ["abandoned"]
