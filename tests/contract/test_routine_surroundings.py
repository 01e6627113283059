"""Routines beside the rest of the contract: coroutines, pauses, hidden arguments, the slot in a task."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import ContractError, NotFound, PerpetualOptions, PerpetualTask, Retries, RoutineBusy
from celery_perpetual.routines.due import DueRuns
from tests.support.routines import World, after, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery


@pytest.fixture
def world(make_app: Callable[..., Celery], store_redis: redis.Redis) -> Iterator[World]:
    world = World(make_app(), store_redis)
    yield world
    world.perpetual.store.close()


@pytest.fixture
def now(world: World) -> datetime:
    return world.now()


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
    """``pause(routine=…)`` is the pause of the routine; it goes with no other scope and has no end."""
    made = world.create(every=60, start_at=now)

    assert world.perpetual.pause(routine=made.id, reason="holidays").scope.name == made.id
    assert world.routines.get(made.id).state == "paused"
    assert world.run() == []
    assert world.perpetual.resume(routine=made.id)
    assert not world.perpetual.resume(routine=made.id)
    assert world.routines.get(made.id).state == "active"
    with pytest.raises(NotFound):
        world.perpetual.pause(routine="nobody")
    with pytest.raises(ContractError, match="until"):
        world.perpetual.pause(routine=made.id, until=after(now, 1000))
    with pytest.raises(ContractError, match="routine"):
        world.perpetual.pause(routine=made.id, everything=True)


def test_while_everything_is_paused_beat_runs_nothing(world: World, now: datetime) -> None:
    """A call by hand runs it all the same."""
    world.create(at=after(now, -1))
    runs = DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher)
    world.perpetual.pause(everything=True)

    assert runs.read().records == []
    assert len(world.run()) == 1

    world.create(at=after(now, -1))
    world.perpetual.resume(everything=True)
    assert len(runs.read().records) == 1


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
