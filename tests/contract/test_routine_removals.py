"""Routines that are cancelled, deleted, cleared and forgotten."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import (
    NotFound,
    RoutineBusy,
)
from tests.support.routines import after

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from celery import Celery

    from tests.support.routines import World


EVERY = timedelta(milliseconds=5000)


def test_cancelled_in_any_state(world: World, now: datetime) -> None:
    """It is due no more, twice is as good as once, and a run that was under way changes nothing any more."""
    made = world.create(at=after(now, -100))
    world.routines.run_due()

    first = world.routines.cancel(made.id)
    second = world.routines.cancel(made.id)

    assert (first.state, first.next_run_at, first.current_run_id) == ("cancelled", None, None)
    assert first.cancelled_at is not None
    assert second == first
    assert world.routines.list_due() == []
    assert [about["routine_id"] for _, about in world.events("routine.cancelled")] == [made.id]
    with pytest.raises(NotFound):
        world.routines.cancel("nobody")


def test_a_cancel_of_one_that_has_ended_writes_nothing(world: World, now: datetime) -> None:
    """It stays completed or exhausted, with its version, and no event reports what did not happen."""
    world.fails = 1
    world.create(at=after(now, 1), id="exhausted")
    world.run(after(now, 1))
    world.create(at=now, id="completed")
    world.run()

    for name in ("exhausted", "completed"):
        before = world.routines.get(name)
        assert world.routines.cancel(name, terminate=True) == before
        assert (before.state, world.routines.get(name)) == (name, before)
    assert world.events("routine.cancelled") == []


def test_deleted_when_it_has_ended(world: World, now: datetime) -> None:
    made = world.create(at=now)
    with pytest.raises(RoutineBusy, match="cancel it first"):
        world.routines.delete(made.id)

    world.routines.cancel(made.id)
    world.routines.delete(made.id)

    with pytest.raises(NotFound, match=made.id):
        world.routines.get(made.id)
    assert world.create(at=now, id=made.id).created


def test_clear_leaves_no_key(world: World, now: datetime) -> None:
    """Nor is a routine listed or due."""
    world.create(at=now)
    world.create(every=5, paused=True, idempotency_key="k")
    world.routines.run_due()

    world.routines.clear()

    assert world.routines.list() == world.routines.list_due() == []
    assert world.routines.next_due_at() is None
    assert not world.redis.keys("perpetual:routines*")


def test_forgotten_in_the_end(world: World, make_app: Callable[..., Celery], now: datetime) -> None:
    """A routine that has ended is removed by the cycle after ``perpetual_tombstone_ttl``."""
    ended, alive = world.create(at=now), world.create(every=60)
    world.run(limit=1)
    assert world.perpetual.cycle().forgotten == 0

    world.redis.zadd("perpetual:routines:over", {ended.id: 1})
    assert world.perpetual.cycle().forgotten == 1
    assert [each.id for each in world.routines.list()] == [alive.id]
