"""Runs of routines: slots, attempts, results and messages, without a worker or a beat."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from celery_perpetual import Retries
from tests.support.routines import after

if TYPE_CHECKING:
    from tests.support.routines import World


EVERY = timedelta(milliseconds=5000)


def test_a_routine_of_one_run_completes_after_it(world: World, now: datetime) -> None:
    """It runs once, completes, and is due no more; the task has seen its slot."""
    made = world.create("hi", at=after(now, -100), idempotency_key="same-slot")

    (run,) = world.run()
    ended = world.routines.get(made.id)

    assert (run.routine_id, run.slot, run.status, run.result) == (made.id, after(now, -100), "success", ["hi"])
    assert (ended.state, ended.next_run_at, ended.last_result) == ("completed", None, ["hi"])
    assert ended.last_run_id == run.task_id
    assert ended.completed_at is not None
    assert world.slots == [after(now, -100)]
    assert world.run() == []
    assert [name for name, _ in world.events()] == ["routine.created", "routine.started", "routine.run"]


def test_an_interval_stays_on_its_grid(world: World, now: datetime) -> None:
    """Without ``catch_up`` the next slot is the first grid point after now, and the task sees the grid."""
    made = world.create(every=EVERY, start_at=now)

    (run,) = world.run(after(now, 12_000))

    assert run.slot == now
    assert world.routines.get(made.id).next_run_at == after(now, 15_000)
    assert world.run(after(now, 12_000)) == []


def test_missed_slots_are_caught_up_one_by_one(world: World, now: datetime) -> None:
    """Each is run, one for each call."""
    made = world.create(every=EVERY, start_at=now, catch_up=True)
    at = after(now, 12_000)

    slots = [run.slot for _ in range(4) for run in world.run(at)]

    assert slots == [after(now, ms) for ms in (0, 5000, 10_000)]
    assert world.routines.get(made.id).next_run_at == after(now, 15_000)


def test_a_failure_is_tried_again_for_the_same_slot(world: World, now: datetime) -> None:
    """After the back-off, with the slot of the first attempt; the grid does not move."""
    world.fails = 1
    made = world.create(
        every=timedelta(seconds=10), start_at=now, catch_up=True, retries=Retries(max_attempts=2, backoff=0.025)
    )

    (first,) = world.run(after(now, 100_000 // 1000))
    waiting = world.routines.get(made.id)
    assert (first.status, first.error) == ("failure", {"type": "ValueError", "message": "told to fail"})
    assert (waiting.state, waiting.attempt_count, waiting.current_slot_at) == ("retry_waiting", 1, now)
    assert waiting.last_error == first.error
    assert waiting.next_run_at is not None
    assert world.run(after(waiting.next_run_at, -1)) == []

    (second,) = world.run(waiting.next_run_at)
    ended = world.routines.get(made.id)
    assert (second.slot, second.attempt, second.status) == (now, 2, "success")
    assert second.task_id != first.task_id
    assert (ended.state, ended.next_run_at, ended.attempt_count) == ("active", after(now, 10_000), 0)
    assert ended.last_error is None


def test_the_last_attempt_of_one_that_runs_once(world: World, now: datetime) -> None:
    """It is exhausted after it."""
    world.fails = 9
    made = world.create(at=now, retries=Retries(max_attempts=2, backoff=0.025))

    world.run()
    waiting = world.routines.get(made.id)
    assert waiting.state == "retry_waiting"
    assert waiting.next_run_at is not None
    assert waiting.next_run_at > now
    world.run(waiting.next_run_at)

    ended = world.routines.get(made.id)
    assert (ended.state, ended.next_run_at, ended.attempt_count) == ("exhausted", None, 2)
    assert ended.completed_at is not None
    assert [data["state"] for _, data in world.events("routine.failed")] == ["retry_waiting", "exhausted"]


def test_the_last_attempt_of_an_interval(world: World, now: datetime) -> None:
    """It is active again at its next slot, with the attempts at zero and the error on record."""
    start = after(now, 60_000)
    world.fails = 3
    made = world.create(
        every=timedelta(seconds=10), start_at=start, retries=Retries(max_attempts=3, backoff=0.025, multiplier=2)
    )

    for due in (start, after(start, 25), after(start, 75)):
        assert world.routines.get(made.id).next_run_at == due
        assert [run.slot for run in world.run(due)] == [start]

    ended = world.routines.get(made.id)
    assert (ended.state, ended.next_run_at, ended.attempt_count) == ("active", after(start, 10_000), 0)
    assert (ended.last_result, ended.last_error) == (None, {"type": "ValueError", "message": "told to fail"})


def test_attempts_without_a_bound_have_a_pause(world: World, now: datetime) -> None:
    """A run that fails at once would keep workers busy with nothing else."""
    world.fails = 1
    made = world.create(at=now, retries=Retries(max_attempts=None, backoff=0))

    world.run(now)

    routine = world.routines.get(made.id)
    assert routine.next_run_at is not None
    assert routine.last_run_at is not None
    assert routine.next_run_at - routine.last_run_at >= timedelta(milliseconds=100)


def test_the_retries_that_nobody_gave(world: World, now: datetime) -> None:
    """One attempt; what is given of ``Retries`` counts, and the rest is as of none: no growth and no jitter."""
    assert world.create(at=now).retries == Retries(1, 0, 1, None, False)
    assert world.create(at=now, retries=Retries(max_attempts=5, backoff=30)).retries == Retries(5, 30, 1, None, False)


def test_a_number_of_runs_or_an_end(world: World, now: datetime) -> None:
    """After ``max_runs``, or when ``end_at`` is passed, an interval is completed."""
    counted = world.create(every=EVERY, start_at=now, max_runs=2, catch_up=True)
    dated = world.create(every=EVERY, start_at=now, end_at=after(now, 7000), catch_up=True)

    runs = [run for _ in range(4) for run in world.run(after(now, 60_000))]

    assert [run.slot for run in runs if run.routine_id == counted.id] == [now, after(now, 5000)]
    assert [run.slot for run in runs if run.routine_id == dated.id] == [now, after(now, 5000)]
    assert {each.state for each in world.routines.list()} == {"completed"}


def test_one_that_raises_does_not_stop_the_others(world: World, now: datetime) -> None:
    """It counts as an attempt; one whose task is not registered fails, too."""
    world.fails = 1
    world.create(at=after(now, -3), id="a")
    world.routines.create("app.unknown", at=after(now, -2), id="b")
    world.create(at=after(now, -1), id="c")

    assert [run.status for run in world.run()] == ["failure", "failure", "success"]
    states = {each.id: each.state for each in world.routines.list()}
    assert states == {"a": "exhausted", "b": "exhausted", "c": "completed"}


def test_a_limit_runs_the_earliest(world: World, now: datetime) -> None:
    world.create(at=after(now, -1), id="b")
    world.create(at=after(now, -2), id="a")

    assert [run.routine_id for _ in range(3) for run in world.run(limit=1)] == ["a", "b"]


def test_a_run_is_enqueued_with_its_slot(world: World, now: datetime) -> None:
    """The record says that it runs before the message is there; the message says for which slot, and has its options."""
    made = world.create(7, every=60, start_at=now, options={"queue": "celery", "priority": 0, "headers": {"own": 1}})

    (run,) = world.routines.run_due()
    (message,) = world.messages()
    running = world.routines.get(made.id)

    assert run.status == "enqueued"
    assert message["headers"]["id"] == run.task_id == running.current_run_id
    assert (running.state, running.current_slot_at, running.attempt_count) == ("running", now, 1)
    assert running.next_run_at is None
    assert message["headers"]["own"] == 1
    assert datetime.fromisoformat(message["headers"]["perpetual-routine"]["slot"].replace("Z", "+00:00")) == now
    assert world.routines.run_due() == []


def test_many_are_started_in_one_call(world: World, now: datetime) -> None:
    """More than one step starts; each once, in order."""
    world.routines.create_many([{"task": "app.work", "at": after(now, -n), "id": f"{n:03}"} for n in range(250)])

    runs = world.routines.run_due()

    assert [run.routine_id for run in runs] == [f"{n:03}" for n in reversed(range(250))]
    assert len({run.task_id for run in runs}) == len(world.messages()) == 250


def test_an_end_that_is_no_failure(world: World, now: datetime) -> None:
    """A run that was revoked, or ignores itself, is done: the routine goes on with its next slot, and no attempt is left."""
    made = world.create(every=EVERY, start_at=now, retries=Retries(max_attempts=5))

    for status in ("revoked", "ignored"):
        (run,) = world.routines.run_due(world.routines.get(made.id).next_run_at)
        world.ends(run, status)

    found = world.routines.get(made.id)
    assert (found.state, found.attempt_count, found.run_count, found.last_error) == ("active", 0, 2, None)
    assert [data["status"] for _, data in world.events("routine.run")] == ["revoked", "ignored"]


def test_one_attempt_of_an_interval(world: World, now: datetime) -> None:
    """Without retries a failure leaves the routine active, with its error and without a result."""
    made = world.create(1, every=EVERY, start_at=now)
    world.run()
    world.fails = 1
    assert world.routines.get(made.id).last_result == [1]

    world.run(after(now, 5000))

    found = world.routines.get(made.id)
    assert (found.state, found.attempt_count, found.next_run_at) == ("active", 0, after(now, 10_000))
    assert (found.last_result, found.last_error) == (None, {"type": "ValueError", "message": "told to fail"})


def test_a_run_ahead_of_time_is_not_repeated(world: World, now: datetime) -> None:
    """``run_due(at=…)`` runs what would be due then; what follows is reckoned from there, also when it ends later."""
    made = world.create(every=EVERY, start_at=now)
    here = world.create(every=EVERY, start_at=now, id="here")

    run = next(run for run in world.routines.run_due(after(now, 60_000)) if run.routine_id == made.id)
    world.ends(run)
    assert world.routines.get(made.id).next_run_at == after(now, 65_000)
    world.routines.cancel(here.id)
    world.perpetual.cycle()
    assert world.routines.get(made.id).next_run_at == after(now, 65_000)
    assert world.run() == []
    updated = world.routines.get(made.id).updated_at
    assert updated <= world.now()


def test_results_come_while_others_still_run(world: World, now: datetime) -> None:
    """``each_due`` starts what is read; a caller that reads no further starts no more."""
    for n in range(3):
        world.create(n, at=after(now, n - 10))

    runs = world.routines.each_due(run_inline=True)
    assert next(runs).result == [0]
    assert [each.args for each in world.routines.list_due()] == [(1,), (2,)]
    assert [run.result for run in runs] == [[1], [2]]
