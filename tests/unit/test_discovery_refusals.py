"""Errors about registered tasks that are perpetual only half, or wrongly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from celery import Celery, Task

from celery_perpetual import ContractError, PerpetualOptions, PerpetualTask, Poll
from celery_perpetual.tasks.discovery import Discovery, discover

HERE = Path(__file__).name


def due() -> list[Any]:
    return [("without",)]


def nothing() -> None: ...


class Deliver(PerpetualTask):
    name = "shop.deliver"
    poll_every = 30

    def next_batch(self, poll: Poll) -> list[Any]:
        return [(self.name, poll)]

    def run(self, order: int) -> None: ...


@pytest.mark.parametrize("base", [PerpetualTask, Task])
@pytest.mark.parametrize(
    ("half", "missing"),
    [({"poll_every": 30}, "next_batch"), ({"next_batch": due}, "poll_every")],
    ids=["every", "batch"],
)
def test_half_a_perpetual_task_is_a_warning(app: Celery, base: Any, half: dict[str, Any], missing: str) -> None:
    """One of the two attributes alone is not polled, and it is said which one is missing."""
    has = next(iter(half))

    @app.task(name="shop.deliver", base=base, shared=False, **half)
    def deliver(order: int) -> None: ...

    assert discover(app) == Discovery(
        {}, (f"task shop.deliver has {has} but no {missing}, so it is not polled; add {missing}",)
    )


def test_a_name_of_two_lines_is_refused(app: Celery) -> None:
    """The name of a unit is made of it, and stands in lines."""
    app.task(name="shop\ndeliver", base=PerpetualTask, shared=False, poll_every=30, next_batch=due)(nothing)

    with pytest.raises(ContractError, match="the name of a perpetual task must be one line of text of 1 to 16384 char"):
        discover(app)


def test_opting_out_of_an_inherited_half_is_no_warning(app: Celery) -> None:
    """A subclass that sets one of the two to None is not perpetual on purpose."""

    class Quiet(Deliver):
        name = "shop.quiet"
        poll_every = None

    class Silent(Deliver):
        name = "shop.silent"
        next_batch = None  # type: ignore[assignment]

    app.register_task(Quiet())
    app.register_task(Silent())

    assert discover(app) == Discovery({}, ())


WRONG = [
    ({"poll_every": 0}, "poll_every must be at least 0.01 seconds, got 0"),
    ({"poll_every": -1}, "poll_every must be at least 0.01 seconds, got -1"),
    ({"poll_every": "30"}, "poll_every must be seconds, a timedelta or a Celery schedule, got '30'"),
    ({"next_batch": 7}, "next_batch must be a function, method or generator function, got 7"),
    ({"next_batch": "due"}, "next_batch must be a function, method or generator function, got 'due'"),
    ({"next_batch": lambda task, poll: [task, poll]}, "next_batch must take no argument or one Poll, but"),
    ({"next_batch": lambda *, limit: [limit]}, "next_batch must take no argument or one Poll, but"),
    ({"max_in_flight": 0}, "max_in_flight must be a whole number of at least 1, got 0"),
    ({"max_in_flight": "many"}, "max_in_flight must be a whole number of at least 1, got 'many'"),
    ({"poll_timeout": 0}, "poll_timeout must be at least 0.05 seconds, got 0"),
    ({"poll_timeout": "5"}, "poll_timeout must be seconds (a number or a timedelta), got '5'"),
    ({"perpetual_options": {"limit": 5}}, "perpetual_options must be a PerpetualOptions(...), got {'limit': 5}"),
    ({"perpetual_options": PerpetualOptions}, "perpetual_options must be a PerpetualOptions(...), got <class"),
    ({"max_inflight": 5}, "attribute max_inflight has no effect, did you mean max_in_flight?"),
    ({"poll_timeot": 5}, "attribute poll_timeot has no effect, did you mean poll_timeout?"),
    ({"on_loss": "park"}, "attribute on_loss has no effect, did you mean on_lost?"),
    (
        {"limit": 5},
        "limit is a perpetual option, not an attribute of a task; write perpetual_options=PerpetualOptions(l",
    ),
]


@pytest.mark.parametrize(("wrong", "says"), WRONG, ids=[f"{next(iter(w))}-{n}" for n, (w, _) in enumerate(WRONG)])
def test_a_wrong_value_is_refused_with_task_and_file(app: Celery, wrong: dict[str, Any], says: str) -> None:
    """The refusal names the task, the file and line where it is defined, and what is wrong."""

    @app.task(name="shop.deliver", shared=False, **{"poll_every": 30, "next_batch": due, **wrong})
    def deliver(order: int) -> None: ...

    line = deliver.run.__code__.co_firstlineno
    with pytest.raises(ContractError) as seen:
        discover(app)

    assert f"{HERE}:{line}): {says}" in str(seen.value)
    assert str(seen.value).startswith("task shop.deliver (")


def test_a_wrong_class_is_refused_with_its_file(app: Celery) -> None:
    """Class-based tasks are named with the line of their class."""

    class Wrong(Deliver):
        name = "shop.wrong"
        poll_every = 0

    app.register_task(Wrong())

    with pytest.raises(ContractError, match=rf"^task shop\.wrong \(.*{HERE}:\d+\): poll_every must be at least"):
        discover(app)


def test_every_wrong_task_is_named_at_once(app: Celery) -> None:
    """One start of beat names all mistakes."""
    for n, every in enumerate((0, 30, -1)):
        app.task(name=f"shop.task{n}", poll_every=every, next_batch=due, shared=False)(nothing)

    with pytest.raises(ContractError) as seen:
        discover(app)

    assert [line.split(" (")[0] for line in str(seen.value).splitlines()] == ["task shop.task0", "task shop.task2"]
