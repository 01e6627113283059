"""Routines do what the contract says: fields, states, due times, results; without a worker or a beat."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import (
    AlreadyExists,
    IdempotencyConflict,
    InvalidRoutine,
    NotFound,
    Retries,
    RoutineBusy,
    RoutineTerminal,
    StaleVersion,
)
from tests.support.routines import World, after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

EVERY = timedelta(milliseconds=5000)


@pytest.fixture
def world(make_app: Callable[..., Celery], store_redis: redis.Redis) -> Iterator[World]:
    world = World(make_app(), store_redis)
    yield world
    world.perpetual.store.close()


@pytest.fixture
def now(world: World) -> datetime:
    return world.now()


# ---- creating


def test_what_is_created_is_what_is_read(world: World, now: datetime) -> None:
    """A routine has an id of ours, is active, and is due at its time; every way to read it shows the same."""
    made = world.create(7, at=after(now, 1000), metadata={"user": 7})

    assert made.created
    assert made.id.startswith("routine_")
    assert (made.state, made.next_run_at, made.metadata) == ("active", after(now, 1000), {"user": 7})
    assert (made.task, made.args, made.attempt_count, made.version) == ("app.work", (7,), 0, 1)
    assert world.routines.get(made.id) == made
    assert world.routines.list(id=made.id) == [made]


def test_an_id_is_used_once(world: World, now: datetime) -> None:
    """Whatever has become of the first routine."""
    world.create(at=now, id="mine")
    world.routines.cancel("mine")

    with pytest.raises(AlreadyExists, match="'mine'"):
        world.create(at=now, id="mine")


def test_an_idempotency_key_creates_one_routine(world: World, now: datetime) -> None:
    """The second call gets the first routine; with other fields it is a mistake. The key is free when the routine is gone."""
    first = world.create(1, at=now, idempotency_key="order-1")
    second = world.create(1, at=now, idempotency_key="order-1")

    assert (second.id, second.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict, match="order-1"):
        world.create(2, at=now, idempotency_key="order-1")
    assert len(world.routines.list()) == 1

    world.run()
    assert not world.create(1, at=now, idempotency_key="order-1").created
    world.routines.delete(first.id)
    assert world.create(1, at=now, idempotency_key="order-1").created


def test_a_call_with_id_and_idempotency_key_may_be_repeated(world: World, now: datetime) -> None:
    """The routine of this id has this key, so it is the same call; another key, or none, is another routine."""
    first = world.create(7, id="mine", idempotency_key="k", at=now)
    others = [{"task": "app.work", "at": now, "id": name, "idempotency_key": name} for name in ("a", "b")]

    again, *rest = world.routines.create_many(
        [{"task": "app.work", "args": [7], "at": now, "id": "mine", "idempotency_key": "k"}, *others]
    )

    assert (again.id, again.created, again.version) == (first.id, False, 1)
    assert [(each.id, each.created) for each in rest] == [("a", True), ("b", True)]
    with pytest.raises(IdempotencyConflict):
        world.create(8, id="mine", idempotency_key="k", at=now)
    for key in ("other", None):
        with pytest.raises(AlreadyExists):
            world.create(7, id="mine", idempotency_key=key, at=now)


def test_many_are_created_in_one_step_or_not_at_all(world: World, now: datetime) -> None:
    """500 at a time; a field that is wrong in the last one stores none of all."""
    fields = [{"task": "app.work", "args": (n,), "at": now, "id": f"r{n:04}"} for n in range(700)]

    with pytest.raises(InvalidRoutine, match="every"):
        world.routines.create_many([*fields, {"task": "app.work", "every": 0}])
    assert world.routines.list() == []

    world.create(at=now, id="r0600")
    with pytest.raises(AlreadyExists, match="r0600"):
        world.routines.create_many(fields)
    assert len(world.routines.list()) == 501

    world.routines.clear()
    made = world.routines.create_many(fields)
    assert [each.id for each in made] == [each["id"] for each in fields]
    assert len(world.routines.list(limit=1000)) == 700


def test_keys_are_used_once_within_one_call(world: World, now: datetime) -> None:
    """Two of the same key are one routine, two of the same id a mistake."""
    same = {"task": "app.work", "at": now, "idempotency_key": "k"}

    first, second = world.routines.create_many([same, same])
    assert (first.id, first.created, second.created) == (second.id, True, False)
    with pytest.raises(IdempotencyConflict):
        world.routines.create_many([{**same, "args": (1,), "idempotency_key": "l"}, {**same, "idempotency_key": "l"}])
    with pytest.raises(AlreadyExists):
        world.routines.create_many([{**same, "idempotency_key": None, "id": "x"}] * 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": "app.work"}, "at"),
        ({"every": 5}, "task"),
        ({"task": 7, "every": 5}, "task"),
        ({"task": "app.work", "every": 5, "at": datetime.now(timezone.utc)}, "every"),
        ({"task": "app.work", "every": 0}, "every"),
        ({"task": "app.work", "at": datetime(2030, 1, 1)}, "at"),  # without a zone
        ({"task": "app.work", "at": -1}, "at"),
        ({"task": "app.work", "every": 5, "start_at": "x"}, "start_at"),
        ({"task": "app.work", "every": 5, "catch_up": 1}, "catch_up"),
        ({"task": "app.work", "every": 5, "retries": 3}, "retries"),
        ({"task": "app.work", "every": 5, "paused": "yes"}, "paused"),
        ({"task": "app.work", "every": 5, "metadata": [1]}, "metadata"),
        ({"task": "app.work", "every": 5, "metadata": {"a": object()}}, "metadata"),
        ({"task": "app.work", "every": 5, "id": ""}, "id"),
        ({"task": "app.work", "every": 5, "id": 7}, "id"),
        ({"task": "app.work", "every": 5, "idempotency_key": ""}, "idempotency_key"),
        ({"task": "app.work", "every": 5, "next_run_at": 7}, "next_run_at"),
        ({"task": "app.work", "every": 5, "args": "ab"}, "args"),
        ({"task": "app.work", "every": 5, "args": (object(),)}, "args"),
        ({"task": "app.work", "every": 5, "kwargs": [1]}, "kwargs"),
        ({"task": "app.work", "every": 5, "kwargs": {"nobody": object()}}, "kwargs"),
        ({"task": "app.work", "every": 5, "options": {"quee": "x"}}, "options"),
        ({"task": "app.work", "every": 5, "options": {"countdown": 3}}, "options"),
        ({"task": "app.work", "every": 5, "options": {"serializer": "none"}}, "options"),
        ({"task": "app.work", "every": 5, "state": "running"}, "state"),
        ({"task": "app.work", "every": 5, "retry": 3}, "retry"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(world: World, fields: dict[str, Any], field: str) -> None:
    """The error names field and value; arguments that the serializer cannot carry are refused now, not at midnight."""
    with pytest.raises(InvalidRoutine) as refused:
        world.routines.create(**fields)

    assert refused.value.field == field
    assert field in str(refused.value)
    assert world.routines.list() == []
    assert world.events() == []


def test_an_unknown_field_is_refused_with_the_nearest_name(world: World) -> None:
    with pytest.raises(InvalidRoutine, match="idempotency is unknown, did you mean idempotency_key"):
        world.create(every=5, idempotency="x")


# ---- due


def test_the_first_run(world: World, now: datetime) -> None:
    """At ``start_at``, at once without it, or when ``next_run_at`` says, whatever the schedule."""
    assert world.create(every=EVERY, start_at=after(now, 700)).next_run_at == after(now, 700)
    assert timedelta(0) <= world.create(every=EVERY).next_run_at - now < timedelta(seconds=5)  # type: ignore[operator]
    assert world.create(every=EVERY, next_run_at=after(now, 99)).next_run_at == after(now, 99)


def test_what_is_due_in_order(world: World, now: datetime) -> None:
    """By time, then by id; a limit counts what is shown; one that is run is shown only if asked for."""
    for name, at in (("c", 3), ("b", 1), ("a", 1), ("z", 9000)):
        world.create(at=after(now, at), id=name)
    at = after(now, 100)

    def ids(**options: Any) -> list[str]:
        return [each.id for each in world.routines.list_due(at, **options)]

    assert ids() == ["a", "b", "c"]
    assert ids(limit=2) == ["a", "b"]
    assert world.routines.next_due_at() == after(now, 1)
    assert [run.routine_id for run in world.routines.run_due(at, limit=1)] == ["a"]
    assert ids(limit=2) == ["b", "c"]
    assert ids(limit=2, include_claimed=True) == ["a", "b"]
    assert world.routines.due(at) == world.routines.list_due(at)


def test_a_paused_one_is_not_due(world: World, now: datetime) -> None:
    """It keeps its time, and is due at once when it is resumed after it."""
    made = world.create(at=after(now, -100), paused=True)

    assert made.state == "paused"
    assert world.routines.list_due() == []
    assert world.routines.next_due_at() is None
    assert [each.id for each in world.routines.list(due_before=now)] == [made.id]
    assert world.run() == []

    assert world.routines.resume(made.id).next_run_at == after(now, -100)
    assert [each.id for each in world.routines.list_due()] == [made.id]


@pytest.mark.parametrize("options", [{"limit": 0}, {"limit": True}, {"at": 5}, {"include_claimed": "yes"}])
def test_a_wrong_question_is_refused(world: World, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidRoutine, match=next(iter(options))):
        world.routines.list_due(**options)


def test_wrong_filters_are_refused(world: World) -> None:
    for filters in ({"state": "idle"}, {"limit": 0}, {"due_before": 7}, {"task": 7}, {"metadata": 7}, {"id": 7}):
        with pytest.raises(InvalidRoutine, match=next(iter(filters))):
            world.routines.list(**filters)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="foo"):
        world.routines.list(foo=1)  # type: ignore[call-arg]


def test_lists_show_the_newest_change_first(world: World, now: datetime) -> None:
    """Ties by id; filters match exactly."""
    world.routines.create_many([{"task": "app.work", "at": after(now, 60_000), "id": each} for each in "cab"])
    world.routines.create("app.note", every=60, id="n", metadata={"user": 7, "kind": "x"})
    changed = world.routines.update("b", metadata={"user": 7})

    assert [each.id for each in world.routines.list(limit=1)] == ["b" if changed.updated_at > now else "n"]
    assert [each.id for each in world.routines.list(task="app.work")][-2:] == ["a", "c"]
    assert {each.id for each in world.routines.list(metadata={"user": 7})} == {"b", "n"}
    assert [each.id for each in world.routines.list(task="app.note", state="active")] == ["n"]
    assert world.routines.list(state="paused") == []


# ---- running


def test_one_that_runs_once(world: World, now: datetime) -> None:
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


# ---- by the queue


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


# ---- changing


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


# ---- run now


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


# ---- the end


def test_cancelled_in_any_state(world: World, now: datetime) -> None:
    """It is due no more, twice is as good as once, and a run that was under way changes nothing any more."""
    made = world.create(at=after(now, -100))
    world.routines.run_due()

    first = world.routines.cancel(made.id)
    second = world.routines.cancel(made.id)

    assert (first.state, first.next_run_at, first.current_run_id) == ("cancelled", None, None)
    assert first.cancelled_at is not None
    assert second.cancelled_at is not None
    assert second.cancelled_at >= first.cancelled_at
    assert world.routines.list_due() == []
    assert world.events("routine.cancelled")[0][1]["routine_id"] == made.id
    with pytest.raises(NotFound):
        world.routines.cancel("nobody")


def test_deleted_when_it_has_ended(world: World, now: datetime) -> None:
    made = world.create(at=now)
    with pytest.raises(RoutineBusy, match="cancel it first"):
        world.routines.delete(made.id)

    world.routines.cancel(made.id)
    world.routines.delete(made.id)

    with pytest.raises(NotFound, match=made.id):
        world.routines.get(made.id)
    assert world.create(at=now, id=made.id).created


def test_cleared(world: World, now: datetime) -> None:
    """Nothing is left."""
    world.create(at=now)
    world.create(every=5, paused=True, idempotency_key="k")
    world.routines.run_due()

    world.routines.clear()

    assert world.routines.list() == world.routines.list_due() == []
    assert world.routines.next_due_at() is None
    assert not world.redis.keys("perpetual:routines*")


def test_forgotten_in_the_end(world: World, make_app: Callable[..., Celery], now: datetime) -> None:
    """What has ended is removed by the cycle after ``perpetual_tombstone_ttl``."""
    ended, alive = world.create(at=now), world.create(every=60)
    world.run(limit=1)
    assert world.perpetual.cycle().forgotten == 0

    world.redis.zadd("perpetual:routines:over", {ended.id: 1})
    assert world.perpetual.cycle().forgotten == 1
    assert [each.id for each in world.routines.list()] == [alive.id]
