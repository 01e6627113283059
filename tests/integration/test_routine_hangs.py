"""A router of the user's hangs for one routine: all others start, those of its batch too."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.beat import routine_source
from celery_perpetual.beat.routine_source import RoutineSource
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.routines import runs as runs_of_routines
from celery_perpetual.routines.due import DueRuns
from tests.support import wait_until
from tests.support.routines import World, after

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

    from celery_perpetual.store.commands.routines import DueRoutines

# That is how the threads of a source end here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Ended(BaseException):
    """Ends the thread of a source."""


class Gate:
    """The router waits at it for one of the routines."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def route(self, name: str, *_: Any, **__: Any) -> None:
        if name == "app.note":
            self.reached.set()
            self.open.wait(60)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


@pytest.fixture
def world(make_app: Callable[..., Celery], store_redis: redis.Redis, gate: Gate) -> Iterator[World]:
    world = World(make_app(task_routes=[gate.route]), store_redis)
    yield world
    world.perpetual.store.close()


@pytest.fixture
def runs(world: World, monkeypatch: pytest.MonkeyPatch) -> DueRuns:
    monkeypatch.setattr(routine_source, "HANGS", 0.3)
    return DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher)


@pytest.fixture
def started(
    world: World, gate: Gate, runs: DueRuns, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], set[str]]]:
    """Turns once, and names the routines that have started."""
    source = RoutineSource(runs)

    def started() -> set[str]:
        with suppress(StoreUnavailable):
            due = source.due("nobody")
            if not isinstance(due, float):
                source.start(source.claim("nobody", due))
        return has_started(world)

    yield started

    def end(*_: Any, **__: Any) -> None:
        raise Ended

    gate.open.set()
    monkeypatch.setattr(runs, "start", end)
    world.create(5, at=world.now())
    wait_until(lambda: started() and not threads(), "over")


def has_started(world: World) -> set[str]:
    return {data["routine_id"] for _, data in world.events("routine.started")}


def threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "perpetual-routines"]


def test_others_start_beside_one_that_hangs(world: World, gate: Gate, started: Callable[[], set[str]]) -> None:
    """Those of its batch after a while, later ones at once; it starts when its router returns."""
    first = [world.create(number, at=world.now()).id for number in range(3)]
    hangs = world.routines.create("app.note", at=world.now()).id

    wait_until(lambda: started() == set(first), "the others of its batch have started")
    later = world.create(4, at=world.now()).id
    wait_until(lambda: started() == {*first, later}, "a later one has started")
    assert len(threads()) <= 3

    gate.open.set()
    wait_until(lambda: started() == {*first, later, hangs}, "it has started")
    assert len(world.messages()) == 5


def test_the_store_is_away_when_one_is_tried_by_itself(
    world: World, started: Callable[[], set[str]], runs: DueRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It starts when the store is back."""
    first = [world.create(number, at=world.now()).id for number in range(3)]
    world.routines.create("app.note", at=world.now())
    read, tried = runs.read, set[str]()

    def read_later(only: str = "") -> DueRoutines | None:
        if only and only not in tried:
            tried.add(only)
            raise StoreUnavailable("it is away")
        return read(only)

    monkeypatch.setattr(runs, "read", read_later)

    wait_until(lambda: started() == set(first), "the others of its batch have started")
    assert set(first) <= tried


def test_a_start_that_was_left_begins_no_further_step(
    world: World, gate: Gate, started: Callable[[], set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread has its routines, or will have them."""
    monkeypatch.setattr(runs_of_routines, "MOST_RUNS", 2)
    monkeypatch.setattr(routine_source, "HANGS", 60)
    begin = after(world.now(), -1000)
    hangs = world.routines.create("app.note", at=begin).id
    first, *later = [world.create(number, at=after(begin, number)).id for number in range(1, 4)]

    started()
    assert gate.reached.wait(30)
    (left,) = threads()
    monkeypatch.setattr(routine_source, "HANGS", 0)
    gate.reached.clear()
    started()
    assert gate.reached.wait(30)
    monkeypatch.setattr(routine_source, "HANGS", 60)
    gate.open.set()
    left.join(30)

    assert has_started(world) == {hangs, first}
    wait_until(lambda: started() == {hangs, first, *later}, "the others have started")
    assert len(world.messages()) == 4
