"""Tasks that are found: what is polled of them, and their digest."""

from __future__ import annotations

from pathlib import Path
from threading import Event
from typing import Any

from celery import Celery

from celery_perpetual import PerpetualOptions, PerpetualTask, Poll
from celery_perpetual.beat.roster import Roster
from celery_perpetual.broker.task_queues import TaskQueues
from celery_perpetual.settings import Settings
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.discovery import Discovery, discover
from tests.support import wait_until

HERE = Path(__file__).name


def due() -> list[Any]:
    return [("without",)]


def nothing() -> None: ...


def found(app: Celery) -> dict[str, TaskContract]:
    return dict(discover(app).tasks)


def call(contract: TaskContract) -> Any:
    """Call ``next_batch`` as a poll does."""
    return contract.next_batch("the poll") if contract.takes_poll else contract.next_batch()


def test_ordinary_tasks_are_not_perpetual(app: Celery) -> None:
    """Tasks without the two attributes, also those of our base class, are left alone and without a word."""

    @app.task(name="shop.plain", shared=False)
    def plain() -> None: ...

    @app.task(name="shop.based", base=PerpetualTask, shared=False)
    def based() -> None: ...

    assert discover(app) == Discovery({}, ())


def test_attributes_of_the_users_own_are_left_alone(app: Celery) -> None:
    """Only a name that is nearly one of ours is taken for a misspelling of it."""

    @app.task(name="shop.deliver", shared=False, poll_every=30, next_batch=due, region="north", batch_size=5)
    def deliver(order: int) -> None: ...

    assert [*discover(app).tasks] == ["shop.deliver"]


def test_coroutine_functions_are_next_batches_too(app: Celery) -> None:
    """A coroutine function is taken as it is, with or without a poll."""

    async def later() -> list[Any]:
        return []

    async def later_by_poll(poll: Poll) -> list[Any]:
        return [poll]

    for n, next_batch in enumerate((later, later_by_poll)):
        app.task(name=f"shop.task{n}", poll_every=30, next_batch=next_batch, shared=False)(nothing)

    assert [each.takes_poll for each in found(app).values()] == [False, True]


def test_what_is_polled_leaves_out_the_disabled(app: Celery) -> None:
    """Tasks that are disabled by option or by setting are discovered, but are no units to poll."""
    for name, enabled in (("on", True), ("off", False), ("named", True)):
        options = PerpetualOptions(enabled=enabled)
        app.task(name=name, poll_every=30, next_batch=due, perpetual_options=options, shared=False)(nothing)

    roster = Roster(app, Settings(disabled=("named",)))

    assert list(discover(app).tasks) == ["named", "off", "on"]
    assert list(roster.units) == ["perpetual:on"]
    assert roster.disabled == {"perpetual:named", "perpetual:off"}


def test_a_router_that_hangs_stops_no_clock(app: Celery) -> None:
    """The tasks are known without their queues until it returns; each is asked for once."""
    goes_on, asked = Event(), list[str]()

    def route(name: str, *_: Any, **__: Any) -> dict[str, str]:
        asked.append(name)
        assert goes_on.wait(20)
        return {"queue": "far"}

    app.conf.task_routes = (route,)
    app.task(name="one", poll_every=30, next_batch=due, shared=False)(nothing)
    queues = TaskQueues(app)
    tasks = {"one": app.tasks["one"]}
    assert [queues.of(tasks, 0.05) for _ in range(3)] == [{"one": ""}] * 3
    goes_on.set()
    wait_until(lambda: queues.of(tasks, 0.05) == {"one": "far"}, "it has returned")
    assert (queues.of(tasks), asked) == ({"one": "far"}, ["one"])


def test_a_router_that_hangs_for_one_task_hides_the_queue_of_no_other(app: Celery) -> None:
    """The others are asked for beside it, at once and later; it is known when its router returns."""
    goes_on, asked = Event(), list[str]()

    def route(name: str, *_: Any, **__: Any) -> dict[str, str]:
        asked.append(name)
        assert name != "a" or goes_on.wait(20)
        return {"queue": f"of {name}"}

    app.conf.task_routes = (route,)
    for name in "abcd":
        app.task(name=name, poll_every=30, next_batch=due, shared=False)(nothing)
    queues = TaskQueues(app)

    assert queues.of({name: app.tasks[name] for name in "abc"}, 2) == {"a": "", "b": "of b", "c": "of c"}
    assert queues.of({name: app.tasks[name] for name in "acd"}, 2) == {"a": "", "c": "of c", "d": "of d"}
    goes_on.set()
    wait_until(lambda: queues.of({"a": app.tasks["a"]}, 0.05) == {"a": "of a"}, "it has returned")
    assert sorted(asked) == ["a", "b", "c", "d"]


def test_the_digest_tells_sets_of_units_apart(app: Celery) -> None:
    """Two beats with the same tasks have the same digest, and another one with others."""
    app.task(name="one", poll_every=30, next_batch=due, shared=False)(nothing)
    alone = discover(app).digest()
    app.task(name="two", poll_every=30, next_batch=due, shared=False)(nothing)
    both = discover(app).digest()

    other = Celery("other", set_as_current=False)
    other.task(name="two", poll_every=60, next_batch=due, shared=False)(nothing)
    other.task(name="one", poll_every=60, next_batch=due, shared=False)(nothing)

    assert alone != both
    assert discover(other).digest() == both
