"""Records that were written while the store's clock was an hour ahead, kind by kind; the step itself is a long test."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Item
from celery_perpetual.routines.storage import Change, read, write
from celery_perpetual.store.keys import Keys
from tests.support.contract import finish
from tests.support.routines import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

    from tests.support.watched_app import WatchedApp

KEYS = Keys("perpetual")
UNIT = "perpetual:app.work"
HOUR = 3_600_000


@pytest.fixture
def world(make_app: Callable[..., Celery], store_redis: redis.Redis) -> Iterator[World]:
    world = World(make_app(), store_redis)
    yield world
    world.perpetual.store.close()


@pytest.mark.parametrize("status", ["success", "failure"])
def test_a_key_whose_task_ended_ahead_is_free(watched_app: Callable[..., WatchedApp], status: str) -> None:
    """It has neither ended of late nor is it held back."""
    one = watched_app()
    (task_id,) = one.poll([Item((1,), key="row")]).task_ids
    finish(one.perpetual, task_id, status)
    later = one.perpetual.store.now() + HOUR
    one.redis.hset(KEYS.recent(UNIT), "row", f"{later} {task_id}")
    if status == "failure":
        one.redis.zadd(KEYS.failed(UNIT), {"row": later + 30_000})
        _, rest = one.redis.hget(KEYS.failures(UNIT), "row").split("|", 2)[1:]
        one.redis.hset(KEYS.failures(UNIT), "row", f"1|{later}|{rest}")

    assert one.perpetual.poll("app.work").count == 1


def changed_ahead(world: World, routine_id: str) -> None:
    """As it is when it was changed an hour ahead: its next slot is the one after that."""
    record, now = read(world.perpetual.store, routine_id)
    assert record is not None
    write(world.perpetual.store, [Change(record, record.changed(now + HOUR, next=(record.next or 0) + HOUR))])


def test_a_routine_that_was_changed_ahead_runs_at_its_next_time(world: World) -> None:
    """Once: what it says of its last change is right again."""
    routine = world.create(every=60)
    once = world.create(at=world.now() + timedelta(days=1))
    changed_ahead(world, routine.id)

    assert world.perpetual.cycle().ok
    pulled = world.routines.get(routine.id)

    assert pulled.next_run_at is not None
    assert timedelta(0) < pulled.next_run_at - world.now() <= timedelta(seconds=60)
    assert pulled.updated_at <= world.now()
    assert world.routines.get(once.id) == once
    assert world.perpetual.cycle().ok
    assert world.routines.get(routine.id) == pulled


def test_a_routine_that_was_run_for_a_later_time_keeps_it(world: World) -> None:
    """The slots that were run so are not run again."""
    routine = world.create(every=60)
    later = world.now() + timedelta(hours=3)
    assert len(world.run(later)) == 1

    assert world.perpetual.cycle().ok

    kept = world.routines.get(routine.id).next_run_at
    assert kept is not None
    assert kept > later
