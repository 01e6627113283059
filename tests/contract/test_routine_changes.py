"""Changes of routines, in the states in which they are allowed; runs by hand; the end."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import (
    IdempotencyConflict,
    InvalidRoutine,
    Retries,
    RoutineBusy,
    RoutineTerminal,
    StaleVersion,
)
from tests.support.routines import after

if TYPE_CHECKING:
    from datetime import datetime

    from celery_perpetual.routines.routine import Routine
    from tests.support.routines import World


EVERY = timedelta(milliseconds=5000)


def test_another_schedule_computes_the_next_run(world: World, now: datetime) -> None:
    """Also while it is paused."""
    made = world.create(every=EVERY, start_at=now)
    updated = world.routines.update(made.id, every=1, start_at=after(now, 250))
    assert (updated.next_run_at, updated.version) == (after(now, 250), 2)

    world.routines.pause(made.id)
    assert world.routines.update(made.id, at=after(now, 99_000)).next_run_at == after(now, 99_000)
    assert world.routines.resume(made.id).next_run_at == after(now, 99_000)


def test_what_is_not_named_stays(world: World, now: datetime) -> None:
    """The next run too; the event names the fields, and not their values."""
    made = world.create(1, every=EVERY, start_at=after(now, 700), metadata={"a": 1})

    updated = world.routines.update(made.id, args=("secret",))

    assert (updated.args, updated.next_run_at, updated.metadata) == (("secret",), after(now, 700), {"a": 1})
    (event,) = world.events("routine.updated")
    assert event[1]["fields"] == ["args"]
    assert "secret" not in str(event)


def test_the_next_run_can_be_taken_away(world: World, now: datetime) -> None:
    """It stays active, and is not due."""
    made = world.create(every=EVERY, start_at=now)

    assert world.routines.update(made.id, next_run_at=None).state == "active"
    assert world.routines.list_due() == []
    assert world.routines.update(made.id, next_run_at=now).next_run_at == now


def test_a_version_guards_a_change(world: World, now: datetime) -> None:
    made = world.create(every=EVERY, start_at=now)
    world.routines.update(made.id, if_version=1, metadata={"a": 1})

    with pytest.raises(StaleVersion, match="version 2"):
        world.routines.update(made.id, if_version=1, metadata={"a": 2})
    assert world.routines.get(made.id).metadata == {"a": 1}


def test_a_key_of_another_routine_is_refused(world: World, now: datetime) -> None:
    world.create(at=now, idempotency_key="k")
    made = world.create(at=now)

    with pytest.raises(IdempotencyConflict, match="'k'"):
        world.routines.update(made.id, idempotency_key="k")


def test_a_wrong_patch_changes_nothing(world: World, now: datetime) -> None:
    made = world.create(every=EVERY, start_at=now)

    for patch in ({"id": "x"}, {"foo": 1}, {"every": 0}, {"state": "running"}, {"paused": 1}, {"metadata": 1}):
        with pytest.raises(InvalidRoutine):
            world.routines.update(made.id, **patch)
    assert world.routines.get(made.id) == made


def test_who_is_busy_or_has_ended_is_not_changed(world: World, now: datetime) -> None:
    """Running and waiting for another attempt are busy; completed, exhausted and cancelled have ended."""
    world.create(at=now, id="running")
    world.routines.run_due()
    world.fails = 2
    world.create(at=now, id="retry_waiting", retries=Retries(max_attempts=2, backoff=60))
    world.create(at=after(now, 1), id="exhausted")
    world.run(after(now, 1))
    world.create(at=now, id="completed")
    world.run()
    world.create(at=now, id="cancelled")
    world.routines.cancel("cancelled")

    assert all(each.id == each.state for each in world.routines.list())
    for name in ("running", "retry_waiting"):
        for change in (world.routines.pause, world.routines.run_now, world.routines.delete):
            with pytest.raises(RoutineBusy, match=name):
                change(name)
    for name in ("exhausted", "completed", "cancelled"):
        with pytest.raises(RoutineTerminal, match=name):
            world.routines.update(name, metadata={})
    with pytest.raises(RoutineTerminal, match="cancelled"):
        world.routines.run_now("cancelled")


def test_a_run_by_hand_leaves_the_cadence(world: World, now: datetime) -> None:
    """State, next run and attempts stay, in every state in which it is allowed."""
    world.create(every=EVERY, start_at=after(now, 5000), id="active")
    world.create(every=EVERY, start_at=after(now, 5000), id="paused", paused=True)
    world.create(at=after(now, -1), id="completed")
    world.run()

    for name in ("active", "paused", "completed"):
        before = world.routines.get(name)
        run = world.routines.run_now(name)
        ran = world.routines.get(name)
        assert run.status == "enqueued"
        assert (ran.state, ran.next_run_at, ran.attempt_count) == (name, before.next_run_at, before.attempt_count)
        assert ran.last_run_id == run.task_id
    assert len(world.messages()) == 3
    assert [each.id for each in world.routines.list_due(after(now, 6000))] == ["active"]


def test_the_end_of_a_run_by_hand(world: World, now: datetime) -> None:
    """A failure is on record, and is not tried again; a success leaves the error of the last run."""
    made = world.create(every=EVERY, start_at=after(now, 60_000), retries=Retries(max_attempts=5))

    world.ends(world.routines.run_now(made.id), "failure", raised=ValueError("no"))
    failed = world.routines.get(made.id)
    world.ends(world.routines.run_now(made.id), result="yes")
    found = world.routines.get(made.id)

    assert failed.last_error == {"type": "ValueError", "message": "no"}
    for each in (failed, found):
        assert (each.state, each.attempt_count, each.next_run_at) == ("active", 0, after(now, 60_000))
    assert found.last_result == "yes"


def test_a_run_by_hand_of_one_that_is_exhausted(world: World, now: datetime) -> None:
    """It stays exhausted."""
    world.fails = 1
    made = world.create(at=now)
    world.run()

    world.ends(world.routines.run_now(made.id), result="yes")

    found = world.routines.get(made.id)
    assert (found.state, found.last_result) == ("exhausted", "yes")


def test_a_slot_that_passed_during_a_pause(world: World, now: datetime) -> None:
    """``resume`` runs it at once, or leaves it out where there is a later one."""
    for name in ("now", "kept"):
        world.create(every=EVERY, start_at=after(now, -2000), id=name, paused=True)
    once = world.create(at=after(now, -2000), paused=True)

    assert world.routines.resume("now").next_run_at == after(now, -2000)
    assert world.routines.resume("kept", from_="kept").next_run_at == after(now, 3000)
    assert world.routines.resume(once.id, from_="kept").next_run_at == after(now, -2000)


# ---- who may


def test_a_function_of_the_user_may_refuse(world: World, now: datetime) -> None:
    """It sees the routine as it would be; nothing is stored, and the caller reads the reason."""

    @world.routines.authorize
    def no_secrets(action: str, routine: Routine) -> None:
        if "secret" in routine.args:
            raise PermissionError(f"routine blocked on {action}")

    with pytest.raises(InvalidRoutine, match="no_secrets: PermissionError: routine blocked on create"):
        world.create("secret", at=now)
    assert world.routines.list() == []
    assert world.events() == []

    made = world.create("open", at=now)
    with pytest.raises(InvalidRoutine, match="blocked on update"):
        world.routines.update(made.id, args=["secret"])
    assert world.routines.get(made.id) == made


# ---- who hears of it


def test_each_change_is_an_event_in_order(world: World, now: datetime) -> None:
    """A consumer with a cursor of its own gets each of them once: their ids only grow."""
    made = world.create(every=EVERY, start_at=after(now, -1))
    world.run()
    world.routines.cancel(made.id)
    world.routines.delete(made.id)
    world.create(at=now)
    world.routines.clear()

    entries = world.redis.xrange("perpetual:events")
    names = [fields["event"] for _, fields in entries if fields["event"].startswith("routine.")]
    assert names == [
        "routine.created", "routine.started", "routine.run", "routine.cancelled", "routine.deleted", "routine.created",
        "routine.cleared",
    ]  # fmt: skip
    ids = [tuple(map(int, entry.split("-"))) for entry, _ in entries]
    assert ids == sorted(set(ids))
    stream = world.perpetual.stream("billing", "one")
    seen = [next(stream).event for _ in entries]
    stream.close()  # type: ignore[attr-defined]
    assert [name for name in seen if name.startswith("routine.")] == names


def test_what_was_due_and_started_is_reported(
    world: World, now: datetime, caplog: pytest.LogCaptureFixture
) -> None:  # fmt: skip
    """For logs and metrics: how many were due, how many of them this call has started, and how long that took."""
    world.create(at=now)
    caplog.set_level("DEBUG", "celery_perpetual")

    world.routines.run_due()

    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "perpetual.routines.due"]
    facts = vars(record)
    assert (facts["due"], facts["started"]) == (1, 1)
    assert 0 < facts["seconds"] < 10
