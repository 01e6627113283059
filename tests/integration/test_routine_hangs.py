"""A router of the user's hangs for one routine: all others start, those of its batch too."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.beat import routine_source
from celery_perpetual.beat.routine_source import RoutineSource
from celery_perpetual.routines.due import DueRuns
from tests.support import wait_until
from tests.support.routines import World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

# That is how the threads of a source end here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """The router waits for it."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
def world(
    make_app: Callable[..., Celery], store_redis: redis.Redis, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.setattr(routine_source, "HANGS", 0.3)

    def route(name: str, *_: Any, **__: Any) -> None:
        if name == "app.note":
            gate.wait(60)

    world = World(make_app(task_routes=[route]), store_redis)
    yield world
    world.perpetual.store.close()


class Ended(BaseException):
    """Ends the thread of a source."""


def test_others_start_beside_one_that_hangs(
    world: World, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of its batch after a while, later ones at once; it starts when its router returns."""
    perpetual = world.perpetual
    runs = DueRuns(world.app, perpetual.store, perpetual.runner.publisher)
    source = RoutineSource(runs)
    first = [world.create(number, at=world.now()).id for number in range(3)]
    hangs = world.routines.create("app.note", at=world.now()).id

    def started() -> set[str]:
        due = source.due("nobody")
        if not isinstance(due, float):
            source.start(source.claim("nobody", due))
        return {data["routine_id"] for _, data in world.events("routine.started")}

    wait_until(lambda: started() == set(first), "the others of its batch have started")
    later = world.create(4, at=world.now()).id
    wait_until(lambda: started() == {*first, later}, "a later one has started")
    assert len([each for each in threading.enumerate() if each.name == "perpetual-routines"]) <= 3

    gate.set()
    wait_until(lambda: started() == {*first, later, hangs}, "it has started")
    assert len(world.messages()) == 5

    def end(*_: Any, **__: Any) -> None:
        raise Ended

    monkeypatch.setattr(runs, "start", end)
    world.create(5, at=world.now())
    wait_until(
        lambda: started() and not any(each.name == "perpetual-routines" for each in threading.enumerate()), "over"
    )
