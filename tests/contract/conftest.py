"""Fixtures of the tests that show what each name of the public contract changes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual, PerpetualScheduler, PerpetualTask
from tests.support.contract import nothing
from tests.support.routines import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from datetime import datetime
    from pathlib import Path

    import redis
    from celery import Celery


@pytest.fixture
def shop(make_app: Callable[..., Celery]) -> Iterator[Callable[..., Perpetual]]:
    """A wired app with one perpetual task ``deliver``: ``shop(items, settings, **attributes)``."""
    stores = []

    def make(items: Any, settings: dict[str, Any] | None = None, **attributes: Any) -> Perpetual:
        app = make_app("shop", **(settings or {}))
        perpetual = Perpetual(app)
        stores.append(perpetual)
        given: dict[str, Any] = {"poll_every": 3600, "next_batch": items, **attributes}
        app.task(name="deliver", base=PerpetualTask, shared=False, **given)(nothing)
        return perpetual

    yield make
    for perpetual in stores:
        perpetual.store.close()


@pytest.fixture
def beat(make_app: Callable[..., Celery], tmp_path: Path) -> Iterator[Callable[..., PerpetualScheduler]]:
    """Our scheduler at work in this process, without any perpetual task: ``beat(**settings)``."""
    running = []

    def start(**settings: Any) -> PerpetualScheduler:
        scheduler = PerpetualScheduler(make_app("shop", **settings), schedule_filename=str(tmp_path / "schedule"))
        running.append(scheduler)
        return scheduler

    yield start
    for scheduler in running:
        scheduler.close()


@pytest.fixture
def world(make_app: Callable[..., Celery], store_redis: redis.Redis) -> Iterator[World]:
    """An app in this process with routines of its own."""
    world = World(make_app(), store_redis)
    yield world
    world.perpetual.store.close()


@pytest.fixture
def now(world: World) -> datetime:
    """The store's time."""
    return world.now()
