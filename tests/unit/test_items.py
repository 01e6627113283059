"""Every form of an item, and every refusal with the words that help to find it."""

from __future__ import annotations

from collections import namedtuple
from datetime import datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from celery import Celery, chain, chord, group
from kombu.serialization import loads

from celery_perpetual import Batch, InvalidItem, Item, PerpetualTask
from celery_perpetual.ledger.entries import LONGEST_KEY
from celery_perpetual.ledger.item import CheckedItem, ItemReader
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.items import UNSET

app = Celery("shop", set_as_current=False)


@app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.deliver", shared=False)
def deliver(*args: Any, **kwargs: Any) -> None: ...


@app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.strict", shared=False)
def strict(order: int, *, fast: bool = False) -> None: ...


@app.task(name="shop.other", shared=False)
def other(*args: Any, **kwargs: Any) -> None: ...


@app.task(name="shop.bound", shared=False, bind=True)
def bound(self: Any, order: int) -> None: ...


Row = namedtuple("Row", ["order", "weight"])


def work(entry: Any, task: str = "shop.deliver", index: int = 0) -> CheckedItem:
    """Read an entry of the task's ``next_batch``."""
    return ItemReader(app, discover(app).tasks[task]).read(index, entry)


def arguments(entry: Any, task: str = "shop.deliver") -> tuple[str, Any, Any]:
    """Task, args and kwargs that an entry stands for."""
    found = work(entry, task)
    args, kwargs = loads(found.body, "application/json", "utf-8")
    return found.task, args, kwargs


FORMS = [
    (Item(), "shop.deliver", [], {}),
    (Item((1, 2)), "shop.deliver", [1, 2], {}),
    (Item([1, 2]), "shop.deliver", [1, 2], {}),
    (Item((), {"a": 1}), "shop.deliver", [], {"a": 1}),
    (Item(kwargs={"a": 1}), "shop.deliver", [], {"a": 1}),
    (Item((1,), {"a": 1}, key=7), "shop.deliver", [1], {"a": 1}),
    (Item((1,), MappingProxyType({"a": 1})), "shop.deliver", [1], {"a": 1}),
    (Item((1,), task=other), "shop.other", [1], {}),
    (Item((1,), task="shop.other"), "shop.other", [1], {}),
    (Item((1,), task="of.another.service"), "of.another.service", [1], {}),
    (Item(n for n in (1, 2)), "shop.deliver", [1, 2], {}),
    ((), "shop.deliver", [], {}),
    ((1, "two"), "shop.deliver", [1, "two"], {}),
    ([1, "two"], "shop.deliver", [1, "two"], {}),
    (Row(5, 2.5), "shop.deliver", [5, 2.5], {}),
    ({}, "shop.deliver", [], {}),
    ({"order": 5}, "shop.deliver", [], {"order": 5}),
    (MappingProxyType({"order": 5}), "shop.deliver", [], {"order": 5}),
    (deliver.s(1, a=2), "shop.deliver", [1], {"a": 2}),
    (deliver.si(1), "shop.deliver", [1], {}),
    (other.s(1, a=2), "shop.other", [1], {"a": 2}),
    (other.signature((1,), {"a": 2}), "shop.other", [1], {"a": 2}),
    (bound.s(5), "shop.bound", [5], {}),
    (app.signature("of.another.service", (1,)), "of.another.service", [1], {}),
]


@pytest.mark.parametrize(("entry", "task", "args", "kwargs"), FORMS, ids=[str(n) for n in range(len(FORMS))])
def test_every_form_of_an_item_is_read(entry: Any, task: str, args: Any, kwargs: Any) -> None:
    """Items, tuples, lists, dicts and signatures say which task runs with which arguments."""
    assert arguments(entry) == (task, args, kwargs)


def test_options_of_an_item_are_kept() -> None:
    """All that an item says beyond arguments and key are options of its message."""
    assert work(Item((1,), queue="slow", priority=3, headers={"trace": "x"})).options == {
        "queue": "slow",
        "priority": 3,
        "headers": {"trace": "x"},
    }


def test_options_of_a_signature_are_kept() -> None:
    """Values that were set on a signature are options of its message."""
    assert work(other.s(1).set(queue="slow", priority=3)).options == {"queue": "slow", "priority": 3}


def test_the_id_of_a_frozen_signature_is_not_used() -> None:
    """A signature that somebody has frozen still gets an id of ours."""
    signature = other.s(1)
    signature.freeze()

    assert work(signature).options == {}


def test_items_and_batches_have_defaults() -> None:
    """A value that is not given differs from None."""
    assert (Item().args, Item().kwargs, Item().key, Item().task, Item().options) == ((), {}, UNSET, None, {})
    assert (Batch().items, Batch().cursor, Batch().more, Batch().watermark) == ((), UNSET, False, None)
    assert repr(UNSET) == "UNSET"


class Order:
    """Like a row of an object-relational mapper."""

    def __repr__(self) -> str:
        return f"<Order {'of a very talkative customer ' * 9}>"


NO_ITEMS = [
    (None, "got NoneType None; yield a signature, an Item, a tuple of args or a dict of kwargs"),
    (7, "got int 7; yield"),
    ("order-7", "got str 'order-7'; yield"),
    (b"order-7", "got bytes b'order-7'; yield"),
    ({7}, "got set {7}; yield"),
    (deliver, "got PromiseProxy <@task: shop.deliver of shop"),
    (iter([7]), "got list_iterator <list_iterator"),
    (Order(), "got Order <Order of a very talkative customer "),
    (Batch([]), "got Batch Batch("),
    (chain(other.s(1), other.s(2)), "a chain is not one task; enqueue a small task that starts it"),
    (group(other.s(1), other.s(2)), "a group is not one task; enqueue a small task that starts it"),
    (chord([other.s(1), other.s(2)], other.s()), "a chord is not one task; enqueue a small task that starts it"),
]

NO_ARGUMENTS = [
    (Item("order"), "args must be a tuple or list, got str 'order'"),  # type: ignore[arg-type]
    (Item(b"order"), "args must be a tuple or list, got bytes b'order'"),  # type: ignore[arg-type]
    (Item({"a": 1}), "args must be a tuple or list, got dict {'a': 1}"),  # type: ignore[arg-type]
    (Item(7), "args must be a tuple or list, got int 7"),  # type: ignore[arg-type]
    (Item((), [1]), "kwargs must be a dict with names as keys, got [1]"),  # type: ignore[arg-type]
    (Item((), {1: 2}), "kwargs must be a dict with names as keys, got {1: 2}"),  # type: ignore[dict-item]
    ({1: 2}, "kwargs must be a dict with names as keys, got {1: 2}"),
    (Item((object(),)), "arguments cannot be serialised as json: "),
    ((object(),), "arguments cannot be serialised as json: "),
    ({"order": object()}, "arguments cannot be serialised as json: "),
]

NO_TASKS = [
    (Item(task=7), "task must be a task or the name of one, got 7"),
    (Item(task=""), "task must be a task or the name of one, got ''"),
    (Item(task=object), "task must be a task or the name of one, got <class 'object'>"),
]

NO_KEYS = [
    (Item(key=None), "key must be a str, an int, or False to opt out, got NoneType None"),
    (Item(key=True), "key must be a str, an int, or False to opt out, got bool True"),
    (Item(key=1.5), "key must be a str, an int, or False to opt out, got float 1.5"),
    (Item(key=b"7"), "key must be a str, an int, or False to opt out, got bytes b'7'"),
    (Item(key=("a", 7)), "key must be a str, an int, or False to opt out, got tuple ('a', 7)"),
    (Item(key="x" * (LONGEST_KEY + 1)), "key has 1025 characters, at most 1024 are allowed"),
    (Item(key="half a \ud83d pair"), "key"),
]

NO_OPTIONS = [
    *[
        (Item(**{name: "x"}), f"option {name} cannot be given for an item; ids and connections are celery-perpetual's")
        for name in ("task_id", "producer", "publisher", "connection", "router", "result_cls", "chord")
    ],
    (Item(headers={"x": object()}), "option headers cannot be stored: "),
    (Item(link=object()), "option link cannot be stored: "),
    (Item(countdown="5"), "option countdown must be a number of seconds, got '5' "),
    (Item(countdown=float("inf")), "option countdown must be a number of seconds, got inf "),
    (Item(countdown=float("nan")), "option countdown must be a number of seconds, got nan "),
    (Item(eta=5), "eta must be a datetime or seconds, got 5"),
    (Item(eta="soon"), "eta"),
    (Item(expires=timedelta(5)), "expires must be a datetime or seconds, got datetime.timedelta(days=5)"),
    (Item(expires=True), "expires must be a datetime or seconds, got True"),
    (Item(expires="soon"), "expires"),
    (Item(serializer="morse"), "serializer"),
    (Item(compression="vacuum"), "compression"),
    (Item(serializer=[]), "serializer [] is not registered with Kombu"),
    (Item(compression={}), "compression {} is not known to Kombu"),
    (Item(headers=5), "option headers must be a dict with text as keys, got 5"),
    (Item(headers={1: 2}), "option headers must be a dict with text as keys, got {1: 2}"),
    (Item(priority=float("nan")), "option priority must be a whole number, got nan"),
    (Item(priority=[1]), "option priority must be a whole number, got [1]"),
    (Item(qeueue="slow"), "option qeueue has no effect, did you mean queue?"),
    (Item(prioritiy=5), "option prioritiy has no effect, did you mean priority?"),
]


@pytest.mark.parametrize(
    ("entry", "says"),
    [*NO_ITEMS, *NO_ARGUMENTS, *NO_TASKS, *NO_KEYS, *NO_OPTIONS],
    ids=lambda value: value[:40].encode("ascii", "replace").decode() if isinstance(value, str) else None,
)
def test_what_cannot_become_a_task_is_refused(entry: Any, says: str) -> None:
    """The refusal names task and index, then what is wrong with what was seen."""
    with pytest.raises(InvalidItem) as seen:
        work(entry, index=42)

    assert str(seen.value).startswith(f"shop.deliver.next_batch, item 42: {says}")
    assert len(str(seen.value)) < 400


@pytest.mark.parametrize(
    "entry",
    [(), (1, 2), {"order": 1, "slow": True}, {"fast": True}, Item((1,), {"order": 2}), strict.s(), bound.s()],
)
def test_arguments_that_do_not_fit_are_refused(entry: Any) -> None:
    """A call that the task's own signature would refuse is refused before anything is enqueued."""
    with pytest.raises(
        InvalidItem, match=r"^shop\.strict\.next_batch, item 3: arguments do not fit shop\.(strict|bound): "
    ):
        work(entry, "shop.strict", 3)


def test_arguments_are_not_checked_where_the_task_says_so() -> None:
    """``typing=False`` switches the check off, as it does in Celery."""

    @app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.loose", shared=False, typing=False)
    def loose(order: int) -> None: ...

    try:
        assert arguments((1, 2, 3), "shop.loose") == ("shop.loose", [1, 2, 3], {})
    finally:
        del app.tasks["shop.loose"]


def test_a_refusal_has_no_misleading_cause() -> None:
    """The error is one error: the message of the inner one, without its traceback."""
    with pytest.raises(InvalidItem) as seen:
        work(7)

    assert seen.value.__cause__ is None
    assert seen.value.__suppress_context__


def test_values_that_kombu_knows_are_serialised() -> None:
    """Datetimes, decimals and the like need no preparation, as in Celery."""
    moment = datetime(2024, 5, 1, tzinfo=timezone.utc)

    assert arguments((moment, b"raw")) == ("shop.deliver", [moment, b"raw"], {})


def test_names_of_properties_and_stamps_are_the_users() -> None:
    """Celery takes any name as a property of the message or as a stamp; what is no misspelling stays."""
    assert work(Item(tenant_of_mine="acme")).options == {"tenant_of_mine": "acme"}
    assert work(Item(qeueue="x", stamped_headers=["qeueue"])).options["qeueue"] == "x"


def test_a_uuid_is_a_key() -> None:
    """The primary key of many a row; compared as its text."""
    key = UUID("3f0f3c2e-7f0e-4c59-9b86-2b1f6a1f8a11")

    assert work(Item((1,), key=key)).key == str(key)
