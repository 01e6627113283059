"""Which registered tasks are perpetual, and what is read of them."""

from __future__ import annotations

from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task, shared_task
from celery.schedules import crontab

from celery_perpetual import PerpetualOptions, PerpetualTask, Poll
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.discovery import discover

HERE = Path(__file__).name


def due() -> list[Any]:
    return [("without",)]


def due_by_poll(poll: Poll) -> list[Any]:
    return [("with", poll)]


def nothing() -> None: ...


def found(app: Celery) -> dict[str, TaskContract]:
    return dict(discover(app).tasks)


def call(contract: TaskContract) -> Any:
    """Call ``next_batch`` as a poll does."""
    return contract.next_batch("the poll") if contract.takes_poll else contract.next_batch()


class Deliver(PerpetualTask):
    name = "shop.deliver"
    poll_every = 30

    def next_batch(self, poll: Poll) -> list[Any]:
        return [(self.name, poll)]

    def run(self, order: int) -> None: ...


class DeliverWithoutPoll(Deliver):
    name = "shop.deliver"

    def next_batch(self) -> list[Any]:  # type: ignore[override]
        return [(self.name,)]


class OfPlainTask(Task):  # type: ignore[type-arg]
    name = "shop.deliver"
    poll_every = 30

    def next_batch(self) -> list[Any]:
        return [(self.name,)]

    def run(self) -> None: ...


class Static(Deliver):
    next_batch = staticmethod(due_by_poll)  # type: ignore[assignment]


class ClassMethod(Deliver):
    @classmethod
    def next_batch(cls, poll: Poll) -> list[Any]:  # type: ignore[override]
        return [(cls.__name__, poll)]


class Generator(Deliver):
    def next_batch(self, poll: Poll) -> Any:  # type: ignore[override]
        yield (self.name, poll)


@pytest.mark.parametrize(
    ("task", "brings"),
    [
        (Deliver, [("shop.deliver", "the poll")]),
        (DeliverWithoutPoll, [("shop.deliver",)]),
        (OfPlainTask, [("shop.deliver",)]),
        (Static, [("with", "the poll")]),
        (ClassMethod, [("ClassMethod", "the poll")]),
        (Generator, [("shop.deliver", "the poll")]),
    ],
)
def test_a_class_with_both_attributes_is_perpetual(app: Celery, task: type[Any], brings: list[Any]) -> None:
    """A registered class with ``poll_every`` and ``next_batch`` is found; its methods get the task."""
    app.register_task(task())

    assert list(call(found(app)["shop.deliver"])) == brings


def test_inherited_attributes_count(app: Celery) -> None:
    """A class whose bases bring the two attributes, one each, is found."""

    class Often:
        poll_every = 5

    class Webhooks(PerpetualTask):
        abstract = True

        def next_batch(self) -> list[Any]:
            return [(self.name,)]

    class Send(Often, Webhooks):
        name = "shop.send"

    class SendAgain(Send):
        name = "shop.send_again"

    app.register_task(Send())
    app.register_task(SendAgain())

    assert {name: (each.cadence.seconds, call(each)) for name, each in found(app).items()} == {
        "shop.send": (5, [("shop.send",)]),
        "shop.send_again": (5, [("shop.send_again",)]),
    }


class CallableObject:
    def __call__(self, poll: Poll) -> list[Any]:
        return [("object", poll)]


@pytest.mark.parametrize(
    ("next_batch", "brings"),
    [
        (due, [("without",)]),
        (due_by_poll, [("with", "the poll")]),
        (lambda: [1], [1]),
        (lambda poll: [poll], ["the poll"]),
        (lambda *args: list(args), ["the poll"]),
        (lambda poll=None: [poll], ["the poll"]),
        (lambda **_: ["nothing"], ["nothing"]),
        (partial(lambda n, poll: [n, poll], 7), [7, "the poll"]),
        (partial(lambda n: [n], 7), [7]),
        (CallableObject(), [("object", "the poll")]),
        (list, []),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("base", [PerpetualTask, None])
def test_a_decorated_task_is_perpetual(app: Celery, base: Any, next_batch: Any, brings: list[Any]) -> None:
    """Functions given to the decorator are called without the task, with the poll if they take one."""
    options = {"base": base} if base else {}

    @app.task(name="shop.deliver", poll_every=30, next_batch=next_batch, shared=False, **options)
    def deliver(order: int) -> None: ...

    contract = found(app)["shop.deliver"]
    got = contract.next_batch() if next_batch is list else call(contract)

    assert got == brings


def test_a_partial_is_no_method(app: Celery) -> None:
    """All functions of a task may be partials, also those that a class has: they get no task."""
    found_tenants, more = partial(lambda names: names, ["acme"]), partial(lambda n, result: [(n, result)], 1)

    class Partial(PerpetualTask):
        poll_every = 30
        next_batch = partial(lambda n, poll: [n, poll], 7)
        tenants = found_tenants
        after_success = more
        name = "shop.partial"

        def run(self, n: int) -> None: ...

    app.register_task(Partial())

    contract = found(app)["shop.partial"]
    assert (call(contract), contract.find_tenants, contract.after_success) == ([7, "the poll"], found_tenants, more)


def test_a_bound_task_is_perpetual(app: Celery) -> None:
    """``bind=True`` is about the task's body; ``next_batch`` is called without the task all the same."""

    @app.task(name="shop.deliver", bind=True, base=PerpetualTask, poll_every=30, next_batch=due_by_poll, shared=False)
    def deliver(self: Any, order: int) -> None: ...

    assert call(found(app)["shop.deliver"]) == [("with", "the poll")]


def test_the_batch_decorator_sets_next_batch(app: Celery) -> None:
    """``@task.batch`` above a function is as good as ``next_batch=``, and leaves the function alone."""

    @app.task(name="shop.deliver", base=PerpetualTask, poll_every=30, shared=False)
    def deliver(order: int) -> None: ...

    @deliver.batch
    def orders(poll: Poll) -> list[Any]:
        return [("decorated", poll)]

    assert call(found(app)["shop.deliver"]) == [("decorated", "the poll")]
    assert orders("direct") == [("decorated", "direct")]  # type: ignore[arg-type]


def test_a_shared_task_is_perpetual_in_every_app() -> None:
    """``@shared_task`` with ``@task.batch`` is found by apps that are made before and after it."""
    before = Celery("before", set_as_current=False)

    @shared_task(name="test_discovery.deliver", base=PerpetualTask, poll_every=30)
    def deliver(order: int) -> None: ...

    @deliver.batch
    def orders() -> list[Any]:
        return ["shared"]

    after = Celery("after", set_as_current=False)

    for each in (before, after):
        assert call(found(each)["test_discovery.deliver"]) == ["shared"]


def test_the_batch_decorator_is_for_decorated_tasks(app: Celery) -> None:
    """On a class-based task it says what to do instead."""
    task: Any = app.register_task(Deliver())

    with pytest.raises(
        TypeError, match=r"task shop\.deliver has a class, .*; define next_batch as a method of the class"
    ):
        task.batch(due)


def test_annotations_of_the_configuration_count(app: Celery) -> None:
    """Values of ``task_annotations`` for a task go before those of the code."""
    app.conf.task_annotations = {"shop.deliver": {"poll_every": 7, "max_in_flight": 3}}

    @app.task(name="shop.deliver", base=PerpetualTask, poll_every=30, next_batch=due, shared=False)
    def deliver(order: int) -> None: ...

    contract = found(app)["shop.deliver"]

    assert (contract.cadence.seconds, contract.max_in_flight) == (7, 3)


def test_the_apps_own_task_class_counts(app: Celery) -> None:
    """Tasks of an app whose ``task_cls`` is ours need no ``base=``."""
    app.task_cls = PerpetualTask

    @app.task(name="shop.deliver", poll_every=30, next_batch=due, shared=False)
    def deliver(order: int) -> None: ...

    assert isinstance(app.tasks["shop.deliver"], PerpetualTask)
    assert call(found(app)["shop.deliver"]) == [("without",)]


def test_what_a_task_says_is_read(app: Celery) -> None:
    """Attributes and options arrive checked, with their defaults where nothing is said."""

    @app.task(name="shop.all", base=PerpetualTask, poll_every=crontab(minute=0), next_batch=due, max_in_flight=5,
              poll_timeout=timedelta(seconds=2), perpetual_options=PerpetualOptions(limit=3), shared=False)  # fmt: skip
    def everything(order: int) -> None: ...

    @app.task(name="shop.plain", base=PerpetualTask, poll_every=30, next_batch=due, shared=False)
    def plain(order: int) -> None: ...

    one, other = found(app)["shop.all"], found(app)["shop.plain"]

    assert (one.max_in_flight, one.poll_timeout, one.options.limit) == (5, 2.0, 3)
    assert (other.max_in_flight, other.poll_timeout, other.options) == (10_000, 30.0, PerpetualOptions())
    assert list(discover(app).units()) == ["perpetual:shop.all", "perpetual:shop.plain"]


@pytest.mark.parametrize(
    ("poll_every", "timeout"), [(1, 5), (5, 5), (30, 30), (60, 60), (3600, 60), (crontab(minute=0), 60)]
)
def test_the_time_limit_follows_the_interval(app: Celery, poll_every: Any, timeout: float) -> None:
    """Unless set, a poll may take as long as the interval, at least five seconds and at most a minute."""

    @app.task(name="shop.deliver", base=PerpetualTask, poll_every=poll_every, next_batch=due, shared=False)
    def deliver(order: int) -> None: ...

    assert found(app)["shop.deliver"].poll_timeout == timeout
