"""A run belongs to whichever caller has started it: no other one starts its slot, and no other end counts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import NotFound, Perpetual, Retries, TaskLost
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.record import decode
from celery_perpetual.routines.runs import run_of_slot
from celery_perpetual.routines.storage import read, write
from celery_perpetual.store.commands.leadership import Mark
from celery_perpetual.store.commands.routines import due_routines
from tests.support.routines import after

if TYPE_CHECKING:
    from datetime import datetime

    from celery_perpetual.routines.routine import RoutineRun
    from tests.support.routines import World

EVERY = timedelta(milliseconds=5000)


def other_caller(world: World) -> Perpetual:
    """Another process, as far as the store can see."""
    return Perpetual(world.app)


def read_due(world: World) -> tuple[DueRuns, object]:
    """A caller that has read what is due, and is slow."""
    runs = DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher)
    return runs, runs.read()


def start(caller: tuple[DueRuns, object]) -> list[RoutineRun]:
    runs, due = caller
    return runs.start(due)  # type: ignore[arg-type]


def test_every_object_of_a_namespace_sees_the_same(world: World, now: datetime) -> None:
    """Nothing needs to be set up, and a second object changes nothing."""
    made = world.create(at=after(now, 60_000))
    other = other_caller(world)

    assert other.routines.list() == world.routines.list() == [made]
    other.store.close()


def test_who_starts_a_slot_first_has_it(world: World, now: datetime) -> None:
    """Two callers have read the same slot as due: the second one starts nothing, and one message is sent."""
    made = world.create(every=EVERY, start_at=now)
    first, second = read_due(world), read_due(world)

    (run,) = start(first)
    assert start(second) == start(first) == []

    assert world.routines.get(made.id).current_run_id == run.task_id
    assert len(world.messages()) == 1
    assert world.routines.list_due(include_claimed=True)[0].id == made.id
    assert world.routines.list_due() == []


def test_a_start_that_is_sent_twice_counts_once(world: World, now: datetime) -> None:
    """A client repeats a call whose reply got lost: the same run is answered as written, another one as refused."""
    made = world.create(every=EVERY, start_at=now)
    due = due_routines(world.perpetual.store, None, 10)
    assert due is not None
    record = decode(made.id, due.records[0][1])
    mine, other = (run_of_slot(record, name, due.now, None).change for name in ("mine", "other"))

    assert [write(world.perpetual.store, [each]) for each in (mine, mine, other)] == [["ok"], ["done"], ["stale"]]
    assert world.routines.get(made.id).attempt_count == 1


def test_a_routine_that_is_gone_is_not_started(world: World, now: datetime) -> None:
    """Removed between being read and being started, or never there."""
    world.create(at=now)
    caller = read_due(world)
    world.routines.clear()

    assert start(caller) == []
    assert world.messages() == []
    with pytest.raises(NotFound):
        world.routines.run_now("nobody")


def test_the_end_of_another_run_changes_nothing(world: World, now: datetime) -> None:
    """An end counts for the run that is under way: not one that was lost before, and not twice."""
    made = world.create(every=EVERY, start_at=now, retries=Retries(max_attempts=3, backoff=0))
    (lost,) = world.routines.run_due()
    world.ends(lost, "lost", raised=TaskLost("its worker is gone"))
    (run,) = world.routines.run_due()
    before = world.routines.get(made.id)

    world.ends(lost)
    assert world.routines.get(made.id) == before
    assert (before.state, before.current_run_id, before.recovery_count) == ("running", run.task_id, 1)

    world.ends(run, result=7)
    ended = world.routines.get(made.id)
    world.ends(run, "failure", raised=ValueError("late"))
    assert world.routines.get(made.id) == ended
    assert (ended.state, ended.last_result, ended.last_error) == ("active", 7, None)


def test_a_caller_that_was_not_believed_any_more(world: World, now: datetime) -> None:
    """Another one has ended its run as lost and has run the slot meanwhile: what the first one brings does not count."""
    made = world.create(every=timedelta(hours=1), start_at=now, retries=Retries(max_attempts=3, backoff=0))
    second: list[RoutineRun] = []
    other = other_caller(world)

    def meanwhile(*_: object) -> str:
        world.app.tasks["app.work"].run = original
        world.redis.zadd("perpetual:routines:inline", {made.id: 1})
        second.extend(other.routines.run_due(run_inline=True))
        return "late"

    task = world.app.tasks["app.work"]
    original, task.run = task.run, meanwhile  # type: ignore[method-assign]
    (first,) = world.run()
    other.store.close()

    found = world.routines.get(made.id)
    assert [run.attempt for run in second] == [2]
    assert first.attempt == 1
    assert (found.last_run_id, found.last_result, found.run_count) == (second[0].task_id, [], 1)
    assert [data["status"] for _, data in world.events("routine.failed", "routine.run")] == ["lost", "success"]
    record, _ = read(world.perpetual.store, made.id)
    assert record is not None
    assert record.run == ""


def test_a_clock_that_is_set_back_before_the_start_is_no_older_store(world: World, now: datetime) -> None:
    """The mark that the beat remembers is the one that the start leaves."""
    perpetual = world.perpetual
    runs = DueRuns(world.app, perpetual.store, perpetual.runner.publisher, "beat", Mark())
    world.create(at=now)
    due = runs.read()
    assert due is not None

    assert len(runs.start(due._replace(now=due.now + 60_000))) == 1

    assert runs.read() is not None
