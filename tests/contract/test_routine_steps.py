"""Many routines that are due together: a beat starts them in steps, and makes one ready while the store is at another."""

from __future__ import annotations

import threading
import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

import pytest
from celery import Task, signals

from celery_perpetual.beat import routine_source
from celery_perpetual.beat.routine_source import RoutineSource
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.store.commands.leadership import Mark
from celery_perpetual.telemetry import sinks, some
from celery_perpetual.times import to_datetime
from tests.support import wait_until
from tests.support.routines import World, after, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import redis
    from celery import Celery

    from celery_perpetual.routines.record import Record
    from celery_perpetual.store.commands.routines import DueRoutines

    Route = Callable[[str], None]

#: Two whole steps, and one that is not.
COUNT = 250


class Stopped(BaseException):
    """Ends a start, or the thread of a source."""


@pytest.fixture
def routes() -> list[Route]:
    """Functions that the router calls with the name of a task, as code of the user's would be called."""
    return []


@pytest.fixture
def routed(make_app: Callable[..., Celery], store_redis: redis.Redis, routes: list[Route]) -> Iterator[World]:
    def route(name: str, *_: Any, **__: Any) -> None:
        for each in routes:
            each(name)

    world = World(make_app(task_routes=[route]), store_redis)
    yield world
    world.perpetual.store.close()


def beat_of(world: World) -> tuple[DueRuns, Mark]:
    mark = Mark()
    return DueRuns(world.app, world.perpetual.store, world.perpetual.runner.publisher, "beat", mark), mark


def beat_and_due(world: World) -> tuple[DueRuns, DueRoutines]:
    """A beat, and what it has read."""
    beat, _ = beat_of(world)
    due = beat.read()
    assert due is not None
    return beat, due


def create(world: World, count: int = COUNT) -> list[str]:
    """Routines that are due, the first one for the longest."""
    start = after(world.now(), -1000)
    made = world.routines.create_many(
        {"task": "app.work", "args": (7,), "id": f"r{n:03}", "at": after(start, n)} for n in range(count)
    )
    return [each.id for each in made]


def alike(message: dict[str, Any]) -> tuple[Any, ...]:
    """The parts of a message that are the same for all runs of these routines."""
    own = {"id", "root_id", "perpetual-routine"}
    headers = {name: value for name, value in message["headers"].items() if name not in own}
    properties = {**message["properties"], "correlation_id": None, "delivery_tag": None}
    return message["body"], headers, properties


def test_many_start_in_steps(world: World) -> None:
    """Each once, a hundred in one step, with messages as Celery builds them."""
    ids = create(world)
    beat, mark = beat_of(world)
    steps: list[Sequence[Record]] = []
    due = beat.read()
    assert due is not None

    runs = beat.start(due, begins=steps.append)

    assert [[each.id for each in step] for step in steps] == [ids[:100], ids[100:200], ids[200:]]
    assert [run.routine_id for run in runs] == ids
    assert len({run.task_id[:28] for run in runs}) == 3
    assert mark.value >= due.now
    messages = world.messages()
    assert [each["headers"]["id"] for each in messages] == [run.task_id for run in runs]
    assert [each["headers"]["perpetual-routine"]["id"] for each in messages] == ids
    assert len({each["properties"]["delivery_tag"] for each in messages}) == COUNT

    world.ends(runs[0])
    world.routines.create("app.work", (7,), id="alone", at=world.now())
    world.routines.run_due()
    *_, by_celery = world.messages()
    assert by_celery["headers"]["perpetual-routine"]["id"] == "alone"
    assert all(alike(each) == alike(by_celery) for each in messages)


def test_one_that_was_changed_does_not_hold_up_its_step(world: World) -> None:
    """Paused after it was read: the others of its step start in another one, and no message is sent twice."""
    ids = create(world)
    beat, due = beat_and_due(world)
    paused = {ids[5], ids[150], ids[151]}
    for each in paused:
        world.routines.pause(each)

    runs = beat.start(due)

    assert sorted(run.routine_id for run in runs) == sorted(set(ids) - paused)
    assert sorted(each["headers"]["id"] for each in world.messages()) == sorted(run.task_id for run in runs)


@pytest.fixture
def seen() -> Iterator[list[str]]:
    """The steps of a start; each message that is published is one."""
    seen = list[str]()

    def published(**_: Any) -> None:
        seen.append("published")

    signals.after_task_publish.connect(published, weak=False)
    yield seen
    signals.after_task_publish.disconnect(published)


def test_code_of_the_users_does_not_hold_up_the_step_before(
    routed: World, routes: list[Route], seen: list[str]
) -> None:
    """A router is asked for a step only when the one before is over: it begins anew here, and its signals are sent."""
    ids = create(routed)
    beat, due = beat_and_due(routed)
    routed.routines.pause(ids[5])
    routes.append(lambda _: seen.append("route"))

    beat.start(due, begins=lambda step: seen.append(f"begins {step[0].id}"))

    assert [(what, len(list(same))) for what, same in groupby(seen)] == [
        ("begins r000", 1), ("route", 199), ("published", 99),
        ("begins r100", 1), ("route", 100), ("published", 100),
        ("begins r200", 1), ("route", 50), ("published", 50),
    ]  # fmt: skip


def test_the_signals_of_a_step_are_sent_before_the_next_one_begins(world: World, seen: list[str]) -> None:
    """Also where its messages need no code of the user's."""
    create(world)
    beat, due = beat_and_due(world)

    beat.start(due, begins=lambda step: seen.append(f"begins {step[0].id}"))

    assert [(what, len(list(same))) for what, same in groupby(seen)] == [
        ("begins r000", 1), ("published", 100), ("begins r100", 1), ("published", 100),
        ("begins r200", 1), ("published", 50),
    ]  # fmt: skip


def test_a_step_that_begins_anew_is_the_one_that_is_under_way(world: World) -> None:
    """Celery builds one message of the first step itself; those of the second step are made ready meanwhile."""
    seen = list[str]()

    class Shadowed(Task):  # type: ignore[type-arg]  # generic in the stubs only
        def shadow_name(self, *_: Any) -> None:
            seen.append("code")

    world.app.task(name="app.shadowed", base=Shadowed, shared=False)(note)
    world.routines.create("app.shadowed", at=after(world.now(), -2000))
    ids = create(world, 199)
    beat, due = beat_and_due(world)
    world.routines.pause(ids[5])

    beat.start(due, begins=lambda step: seen.append(f"begins with {len(step)}"))

    assert seen == ["begins with 100", "code", "code", "begins with 100"]


@pytest.mark.parametrize("where", ["router", "receiver"])
def test_a_later_step_has_its_own_time(request: pytest.FixtureRequest, routes: list[Route], where: str) -> None:
    """The record has not the time at which the routines were read: code of the user's takes its own."""
    world: World = request.getfixturevalue("routed" if where == "router" else "world")
    ids = create(world, 101)
    beat, due = beat_and_due(world)
    until = list[float]()

    def wait(*_: Any, **__: Any) -> None:
        until.append(time.monotonic() + 0.1)
        wait_until(lambda: time.monotonic() >= until[0], "code takes its time", interval=0.001)

    if where == "router":
        routes.append(wait)
    else:
        signals.after_task_publish.connect(wait)
        request.addfinalizer(lambda: signals.after_task_publish.disconnect(wait))
    beat.start(due)

    first, second = (world.routines.get(each).last_run_at for each in (ids[0], ids[100]))
    assert first == to_datetime(due.now)
    assert second is not None
    assert second >= after(first, 99)


def test_an_error_in_a_later_step_leaves_what_has_started(routed: World, routes: list[Route]) -> None:
    """The first step has started, and the rest is due as before."""
    ids = create(routed)
    beat, mark = beat_of(routed)
    due = beat.read()
    assert due is not None

    def fail_later(_: str) -> None:
        if routed.redis.llen("celery") >= 100:
            raise Stopped

    routes.append(fail_later)
    with pytest.raises(Stopped):
        beat.start(due)

    assert mark.value >= due.now
    assert [data["routine_id"] for _, data in routed.events("routine.started")] == ids[:100]
    assert [each["headers"]["perpetual-routine"]["id"] for each in routed.messages()] == ids[:100]

    routes.clear()
    rest = beat.read()
    assert rest is not None
    assert [run.routine_id for run in beat.start(rest)] == ids[100:]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_where_one_hangs_only_its_step_is_tried_one_by_one(
    routed: World, routes: list[Route], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps before have started, and those after it start at once."""
    create(routed, 100)
    hangs = routed.routines.create("app.note", id="s-hangs", at=after(routed.now(), -500)).id
    other = routed.routines.create("app.work", (7,), id="s-other", at=after(routed.now(), -500)).id
    reached, gate, seen = threading.Event(), threading.Event(), list[str]()

    def hang(name: str) -> None:
        if name == "app.note":
            reached.set()
            gate.wait(60)

    routes.append(hang)
    sink = seen.append
    monkeypatch.setattr(routine_source, "HANGS", 60)
    beat, _ = beat_of(routed)
    source = RoutineSource(beat)

    def turn() -> None:
        due = source.due("nobody")
        if not isinstance(due, float):
            source.start(source.claim("nobody", due))

    def started() -> set[str]:
        turn()
        return {data["routine_id"] for _, data in routed.events("routine.started")}

    def reports(event: Any) -> None:
        if event.name == "routine.start_hangs":
            sink(event.data["routines"])

    sinks.append(reports)
    try:
        turn()
        assert reached.wait(30)
        assert len(routed.messages()) == 100
        monkeypatch.setattr(routine_source, "HANGS", 0)
        turn()
        monkeypatch.setattr(routine_source, "HANGS", 0.3)
        wait_until(lambda: other in started(), "the other one of its step has started")
    finally:
        sinks.remove(reports)
        gate.set()
    assert seen[:2] == [some([hangs, other]), hangs]
    wait_until(lambda: hangs in started(), "it starts when its router returns")

    def end(*_: Any, **__: Any) -> None:
        raise Stopped

    monkeypatch.setattr(beat, "start", end)
    routed.create(5, at=routed.now())
    wait_until(
        lambda: started() and not any(each.name == "perpetual-routines" for each in threading.enumerate()), "over"
    )
