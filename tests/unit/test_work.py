"""From an item to work: keys, absolute times, serialisers."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import cache
from typing import Any

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import loads

from celery_perpetual import Item, PerpetualTask
from celery_perpetual.ledger.item import CheckedItem, ItemReader
from celery_perpetual.tasks.discovery import discover

app = Celery("shop", set_as_current=False)
app.conf.update(timezone="Europe/Berlin", accept_content=["json", "pickle"])


@app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.deliver", shared=False)
def deliver(*args: Any, **kwargs: Any) -> None: ...


@app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.pickled", shared=False, serializer="pickle")
def pickled(*args: Any, **kwargs: Any) -> None: ...


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
KWARGS = st.dictionaries(st.text(), JSON, max_size=5)


@cache
def reader(task: str) -> ItemReader:
    return ItemReader(app, discover(app).tasks[task])


def work(entry: Any, task: str = "shop.deliver") -> CheckedItem:
    """Read an entry of the task's ``next_batch``."""
    return reader(task).read(0, entry)


def key(entry: Any, task: str = "shop.deliver") -> str | None:
    return work(entry, task).key


@given(KWARGS, st.randoms())
def test_the_order_of_kwargs_does_not_matter(kwargs: dict[str, Any], random: Any) -> None:
    """The same keyword arguments in another order are the same work, as item, dict and signature."""
    shuffled = list(kwargs.items())
    random.shuffle(shuffled)
    other = dict(shuffled)

    assert key(kwargs) == key(other) == key(Item((), other)) == key(deliver.signature((), other))


@given(st.lists(JSON, max_size=3), KWARGS)
def test_equal_arguments_have_one_key(args: list[Any], kwargs: dict[str, Any]) -> None:
    """The default key depends on task and arguments alone: not on form, sequence type or options."""
    same = [Item(args, kwargs), Item(tuple(args), dict(kwargs)), Item(args, kwargs, priority=3, countdown=5)]

    assert len({key(entry) for entry in [*same, deliver.signature(tuple(args), kwargs)]}) == 1


@given(st.tuples(st.lists(JSON, max_size=2), KWARGS), st.tuples(st.lists(JSON, max_size=2), KWARGS))
def test_other_arguments_have_another_key(one: Any, other: Any) -> None:
    """Keys of different arguments differ."""
    texts = [work(Item(*each)).body for each in (one, other)]
    args_differ = loads(texts[0], "application/json", "utf-8") != loads(texts[1], "application/json", "utf-8")

    if args_differ:
        assert key(Item(*one)) != key(Item(*other))


def test_another_task_has_another_key() -> None:
    """The same arguments for another task are other work."""
    assert key(Item((1,))) != key(Item((1,), task="shop.other"))


def test_positional_and_keyword_arguments_are_told_apart() -> None:
    """Boundaries between arguments count."""
    keys = [key(entry) for entry in ((1, 2), ((1, 2),), (12,), {"a": 1, "b": 2}, {"a": 12}, Item((1,), {"b": 2}))]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("form", ["shop.deliver", "shop.pickled"])
def test_keys_do_not_depend_on_the_identity_of_objects(form: str) -> None:
    """Equal arguments are the same work whether their parts are one object or two equal ones."""
    text = "a text that is long enough"
    twin = "".join(list(text))
    assert twin == text

    assert key((text, text), form) == key((text, twin), form)


@pytest.mark.parametrize(
    ("given_as", "stored"),
    [
        ("order-7", "order-7"),
        (7, "7"),
        (0, "0"),
        (-1, "-1"),
        ("", ""),
        ("zürich 東京", "zürich 東京"),
        (10**30, "1" + "0" * 30),
    ],
)
def test_a_key_is_compared_as_text(given_as: Any, stored: str) -> None:
    """Keys are str or int; 7 and "7" are the same key."""
    assert key(Item((1,), key=given_as)) == stored


def test_a_key_of_ones_own_covers_the_arguments() -> None:
    """With a key of its own, an item is the same work whatever its arguments."""
    assert key(Item((1,), key="a")) == key(Item((2,), key="a", task="shop.other"))


def test_false_opts_out() -> None:
    """``key=False`` is work that may be enqueued any number of times at once."""
    assert key(Item((1,), key=False)) is None


def in_seconds(seconds: float) -> datetime:
    return datetime.now(timezone.utc) + timedelta(seconds=seconds)


@pytest.mark.parametrize("option", ["countdown", "expires"])
@pytest.mark.parametrize("seconds", [60, 0.5, 86_400])
def test_seconds_become_a_time(option: str, seconds: float) -> None:
    """Countdown and expiry count from the poll, so that a message sent late is not late by that much more."""
    before = in_seconds(seconds)
    options = work(Item(**{option: seconds})).options
    after = in_seconds(seconds)

    (stored,) = options.values()
    assert list(options) == ["eta" if option == "countdown" else "expires"]
    assert before <= datetime.fromisoformat(stored) <= after


def test_a_countdown_of_nothing_is_none() -> None:
    """``countdown=0`` is at once, as in Celery, and not an ETA in the past."""
    assert work(Item(countdown=0)).options == {}


@pytest.mark.parametrize("option", ["eta", "expires"])
def test_a_time_stays_that_time(option: str) -> None:
    """Datetimes are stored as Celery writes them into its messages, aware or naive."""
    aware, naive = datetime(2030, 5, 1, 8, tzinfo=timezone.utc), datetime(2030, 5, 1, 8)

    assert work(Item(**{option: aware})).options == {option: "2030-05-01T08:00:00+00:00"}
    assert work(Item(**{option: naive})).options == {option: "2030-05-01T08:00:00"}
    assert work(Item(**{option: "2030-05-01T08:00:00Z"})).options == {option: "2030-05-01T08:00:00Z"}


def test_a_countdown_goes_before_an_eta() -> None:
    """Where both are given Celery uses the countdown, and so do we."""
    options = work(Item(countdown=60, eta=datetime(2040, 1, 1, tzinfo=timezone.utc))).options

    assert abs(datetime.fromisoformat(options["eta"]) - in_seconds(60)) < timedelta(seconds=30)


def test_an_option_that_is_none_is_not_given() -> None:
    """None means the default, as in Celery."""
    assert work(Item(eta=None, expires=None, queue=None, priority=3)).options == {"priority": 3}


def test_the_tasks_serialiser_is_used() -> None:
    """Arguments are stored in the serialiser of the task, of the item if it names one."""
    assert work((1,), "shop.deliver").serializer == "json"
    assert work((1,), "shop.pickled").serializer == "pickle"
    assert work(Item((1,), serializer="pickle"), "shop.deliver").serializer == "pickle"
    assert work(Item((1,), task=pickled), "shop.deliver").serializer == "pickle"
    assert work(Item((1,), task="of.another.service"), "shop.pickled").serializer == "json"


def test_the_apps_serialiser_is_the_default() -> None:
    """``task_serializer`` counts where neither item nor task says anything."""
    own = Celery("own", set_as_current=False)
    own.conf.task_serializer = "pickle"

    @own.task(poll_every=30, next_batch=list, shared=False)
    def deliver(*args: Any) -> None: ...

    found = ItemReader(own, discover(own).tasks[deliver.name]).read(0, ({1, 2},))

    assert found.serializer == "pickle"
    pickled_type = "application/x-python-serialize"
    assert loads(found.body, pickled_type, "binary", accept=[pickled_type]) == (({1, 2},), {})


@given(st.lists(JSON, max_size=3), KWARGS)
def test_plain_arguments_show_themselves(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Values that JSON brings back unchanged need no second notation."""
    assert work(Item(args, kwargs)).kept_reprs is None


@pytest.mark.parametrize(
    "args", [((1, 2),), ([(1, 2)],), ({"a": (1,)},), ({1: 2},), (timedelta.max and datetime(2024, 5, 1),), (b"raw",)]
)
def test_arguments_that_json_changes_keep_how_they_are_shown(args: Any) -> None:
    """A tuple comes back as a list, but Celery's headers show the tuple."""
    assert work(args).kept_reprs == (repr(args), "{}")


def test_pickled_arguments_show_themselves() -> None:
    """Pickle brings back what was given."""
    assert work(((1, 2),), "shop.pickled").kept_reprs is None
