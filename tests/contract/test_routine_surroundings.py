"""Routines beside the rest of the contract: coroutines, pauses, hidden arguments, the slot in a task."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta

import pytest

from celery_perpetual import (
    ContractError,
    InvalidRoutine,
    NotFound,
    PerpetualOptions,
    PerpetualTask,
    Retries,
    RoutineBusy,
)
from celery_perpetual.routines.due import DueRuns
from tests.support.routines import World, after, note
from tests.support.waiting import wait_until


def test_every_operation_is_a_coroutine_too(world: World, now: datetime) -> None:
    """With the same arguments and results; the loop goes on meanwhile."""

    async def use() -> None:
        routines = world.perpetual.aio.routines
        made = await routines.create("app.work", [1], every=60, start_at=now)
        assert (await routines.get(made.id), await routines.list(), await routines.due()) == (made, [made], [made])
        assert await routines.next_due_at() == now
        (run,) = await routines.run_due(run_inline=True)
        assert (run.routine_id, run.result) == (made.id, [1])
        updated = await routines.update(made.id, metadata={"a": 1})
        assert (await routines.pause(made.id)).state == "paused"
        assert (await routines.resume(made.id)).version == updated.version + 2
        assert (await routines.run_now(made.id)).status == "enqueued"
        assert (await routines.cancel(made.id)).state == "cancelled"
        await routines.delete(made.id)
        with pytest.raises(NotFound):
            await routines.get(made.id)
        assert len(await routines.create_many({"task": "app.work", "at": now} for _ in range(3))) == 3
        await routines.clear()
        assert await routines.list_due(limit=1) == []

    asyncio.run(asyncio.wait_for(use(), 30))


def test_a_routine_is_a_scope_of_pauses(world: World, now: datetime) -> None:
    """``pause(routine=…)`` is the pause of the routine; it says who, why and until when, and goes with no other scope."""
    made = world.create(every=60, start_at=now)

    assert world.perpetual.pause(routine=made.id, reason="holidays").scope.name == made.id
    found = world.routines.get(made.id)
    assert (found.state, found.pause["reason"]) == ("paused", "holidays")  # type: ignore[index]
    assert "@" in found.to_dict()["pause"]["by"]
    assert world.run() == []
    assert world.perpetual.resume(routine=made.id)
    assert not world.perpetual.resume(routine=made.id)
    assert (world.routines.get(made.id).state, world.routines.get(made.id).pause) == ("active", None)
    with pytest.raises(NotFound):
        world.perpetual.pause(routine="nobody")
    with pytest.raises(ContractError, match="until"):
        world.perpetual.pause(routine=made.id, until=after(now, -1000))
    with pytest.raises(InvalidRoutine, match="until"):
        world.routines.pause(made.id, until=after(now, -1000))
    assert world.routines.get(made.id).state == "active"
    with pytest.raises(ContractError, match="routine"):
        world.perpetual.pause(routine=made.id, everything=True)


def test_while_everything_is_paused_beat_runs_nothing(world: World, now: datetime) -> None:
    """A call by hand runs it all the same."""
    world.create(at=after(now, -1))
    runs = DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher)
    world.perpetual.pause(everything=True)

    assert due(runs) == []
    assert len(world.run()) == 1

    world.create(at=after(now, -1))
    world.perpetual.resume(everything=True)
    assert len(due(runs)) == 1


def due(runs: DueRuns) -> list[str]:
    """List the routines that a beat would start now."""
    found = runs.read()
    assert found is not None
    return [name for name, _ in found.records]


def test_a_pause_that_ends_by_itself(world: World, now: datetime) -> None:
    """It is over at its time, in whatever process looks first; a slot that has passed meanwhile is due at once."""
    world.create(every=60, start_at=now, id="a")
    world.create(every=60, start_at=after(now, 3_600_000), id="b")
    for name in "ab":
        world.routines.pause(name, until=after(now, 700))
    assert world.run() == []
    assert [each.id for each in world.routines.list_due()] == []

    wait_until(lambda: [run.routine_id for run in world.run()] == ["a"], "the pause is over", interval=0.05)
    assert world.now() >= after(now, 700)
    assert [(each.id, each.state, each.pause) for each in world.routines.list()] == [
        ("a", "active", None), ("b", "active", None),
    ]  # fmt: skip
    assert not world.redis.exists("perpetual:routines:pauses")


def test_all_routines_are_a_scope_too(world: World, now: datetime) -> None:
    """``pause(routine="*")`` holds each of them, for callers too; ``from_="kept"`` leaves out what has passed."""
    world.create(every=60, start_at=now, id="interval")
    world.create(at=now, id="once")
    world.create(every=60, start_at=now, id="paused", paused=True)
    runs = DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher)
    world.perpetual.pause(routine="*", reason="deployment", until=after(now, 60_000))

    assert world.run() == world.routines.run_due() == due(runs) == []
    assert world.routines.run_now("interval").status == "enqueued"
    assert world.perpetual.resume(routine="*", from_="kept")

    assert [run.routine_id for run in world.run()] == ["once"], "it has no other slot"
    assert world.routines.get("interval").next_run_at == after(now, 60_000)
    assert world.routines.get("paused").next_run_at == now
    assert world.perpetual.resume(routine="paused", from_="kept")
    assert world.routines.get("paused").next_run_at == after(now, 60_000)
    assert not world.perpetual.resume(routine="*")


def test_hidden_arguments_stay_hidden(world: World, now: datetime) -> None:
    """``store_args=False`` of the task: neither events nor listings nor headers show them; the task gets them."""
    world.app.task(
        note, name="app.hidden", base=PerpetualTask, shared=False, perpetual_options=PerpetualOptions(store_args=False)
    )
    made = world.routines.create("app.hidden", ["secret"], {"key": "secret"}, at=now)
    world.routines.update(made.id, args=["another secret"])

    assert "secret" not in str(world.routines.get(made.id).to_dict())
    world.routines.run_due()
    (message,) = world.messages()
    assert (message["headers"]["argsrepr"], message["headers"]["kwargsrepr"]) == ("...", "...")
    assert "secret" not in str(world.events())
    assert world.routines.get(made.id).args == ("another secret",)


def test_the_slot_is_that_of_the_innermost_run(world: World, now: datetime) -> None:
    """A task that is called without a routine has none."""
    world.app.tasks["app.work"].apply((1,))
    assert world.slots == [None]
    assert world.perpetual.slot() is None

    world.create(2, at=after(now, -5))
    world.run()
    assert world.slots == [None, after(now, -5)]


def test_a_caller_that_is_gone_is_not_believed_for_ever(world: World, now: datetime) -> None:
    """Its run counts as lost, the slot is tried again, and a second loss of the last attempt ends it."""
    made = world.create(at=after(now, -1), retries=Retries(max_attempts=2))
    world.dies = 2

    for attempt in (1, 2):
        with pytest.raises(SystemExit):
            world.run()
        running = world.routines.get(made.id)
        assert (running.state, running.attempt_count) == ("running", attempt)
        assert world.run() == []
        with pytest.raises(RoutineBusy):
            world.routines.run_now(made.id)
        world.redis.zadd("perpetual:routines:inline", {made.id: 1})
        world.routines.run_due(now - timedelta(days=1))

    ended = world.routines.get(made.id)
    assert (ended.state, ended.recovery_count, ended.attempt_count) == ("exhausted", 2, 2)
    assert ended.last_error is not None
    assert ended.last_error["type"] == "TaskLost"
