"""Default item keys are digests of values: equal arguments are one work, whatever a serializer writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from fractions import Fraction
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from hypothesis import given
from hypothesis import strategies as st
from kombu.serialization import register, unregister
from kombu.utils import json as kombu_json

from celery_perpetual import Item, PerpetualTask
from celery_perpetual.ledger.digests import Digests
from celery_perpetual.ledger.item import ItemReader
from celery_perpetual.tasks.discovery import discover

app = Celery("shop", set_as_current=False)
app.conf.accept_content = ["json", "pickle", "nonce"]


@app.task(base=PerpetualTask, poll_every=30, next_batch=list, name="shop.deliver", shared=False)
def deliver(*args: Any, **kwargs: Any) -> None: ...


@dataclass
class Order:
    """A value of the user's own, with a set in it."""

    number: int
    marks: set[str] = field(default_factory=set)


class Colour(Enum):
    RED = 1


class Number(IntEnum):
    ONE = 1


class Word(str, Enum):
    ONE = "one"


class Safe(str):
    """As Django's text that needs no escaping."""

    __slots__ = ()


class Euros(float):
    """A number with a unit."""

    def __repr__(self) -> str:
        return f"{float(self)} EUR"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=3)
        | st.frozensets(st.text(), max_size=4)
    ),
    max_leaves=8,
)  # fmt: skip


@pytest.fixture
def nonce() -> Iterator[None]:
    """A serializer whose bytes are never the same twice, as those that sign or encrypt."""
    numbers = count()
    register(
        "nonce", lambda value: f"{next(numbers)}|{kombu_json.dumps(value)}",
        lambda body: kombu_json.loads(body.decode().partition("|")[2]), content_type="application/x-nonce",
        content_encoding="utf-8",
    )  # fmt: skip
    yield
    unregister("nonce")


def key(*args: Any, serializer: str = "json", **kwargs: Any) -> str | None:
    reader = ItemReader(app, discover(app).tasks["shop.deliver"])
    return reader.read(0, Item(args, kwargs, serializer=serializer)).key


def reordered(value: Any) -> Any:
    """An equal value whose dicts and sets were filled in another order."""
    if isinstance(value, dict):
        return {name: reordered(each) for name, each in reversed(value.items())}
    if isinstance(value, frozenset):
        return frozenset(sorted(value, reverse=True))
    if isinstance(value, list | tuple):
        return type(value)(map(reordered, value))
    return value


@given(VALUES, st.booleans())
def test_the_order_of_filling_does_not_matter(value: Any, keeps_types: bool) -> None:
    """Dicts and sets within arguments are equal whatever was put in first."""
    one = Digests().of_values("shop.deliver", (value,), {"v": value}, keeps_types=keeps_types)

    assert one == Digests().of_values(
        "shop.deliver", (reordered(value),), {"v": reordered(value)}, keeps_types=keeps_types
    )


@given(VALUES, VALUES)
def test_other_values_have_another_digest(one: Any, other: Any) -> None:
    """No two values run into one another; 1, 1.0 and True are three."""
    digests = [Digests().of_values("shop.deliver", (value,), {}, keeps_types=True) for value in (one, other)]

    if repr(reordered(one)) != repr(reordered(other)) and one != other:
        assert digests[0] != digests[1]


def test_bytes_of_a_serializer_that_change_do_not_matter(nonce: None) -> None:
    """A nonce or a signature in the bytes does not make the same work another one."""
    assert key(1, {"a": [2]}, serializer="nonce") == key(1, {"a": [2]}, serializer="nonce")
    assert key(1, serializer="nonce") != key(2, serializer="nonce")


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"a": 1, "b": {"c": [1, 2]}},
        lambda: date(2026, 11, 29),
        lambda: datetime(2026, 11, 29, tzinfo=timezone.utc),
        lambda: Decimal("1.50"),
        lambda: UUID(int=7),
        lambda: (1, (2, 3)),
    ],
    ids=lambda make: str(make()),
)
def test_rich_values_of_json_have_a_key_of_their_own(make: Any) -> None:
    """Values that Kombu's JSON has a form for have one key, and another than their text."""
    assert key(make()) == key(make())
    assert key(make()) != key(str(make()))


@pytest.mark.parametrize(
    ("kind", "value"), [(Number.ONE, 1), (Word.ONE, "one"), (Safe("half a character \udcff"), "half a character \udcff"),
                        (Euros(1.5), 1.5)],
)  # fmt: skip
def test_what_json_writes_alike_is_the_same_work(kind: Any, value: Any, nonce: None) -> None:
    """A task of plain data gets the same value from an enum and from its value; pickle brings the enum back."""
    for wrapped, plain in ((kind, value), ([kind], [value]), ({"a": kind}, {"a": value}), ({kind: 1}, {value: 1})):
        assert key(wrapped) == key(plain)
        assert key(wrapped, serializer="nonce") == key(plain, serializer="nonce")
        assert key(wrapped, serializer="pickle") != key(plain, serializer="pickle")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Order(1, {"a", "b", "c"}),
        lambda: deque([1, {"x", "y"}]),
        lambda: OrderedDict(a=1),
        lambda: Fraction(1, 3),
        lambda: timedelta(1),
        lambda: Colour.RED,
        lambda: Order,
        lambda: len,
        lambda: range(3),
        lambda: bytearray(b"x"),
    ],
    ids=lambda make: type(make()).__name__,
)
def test_every_pickled_value_has_one_key(make: Any) -> None:
    """Every value that can be pickled has one key."""
    assert key(make(), serializer="pickle") == key(make(), serializer="pickle")
    assert key(make(), serializer="pickle") != key(repr(make()), serializer="pickle")


def test_a_pickled_value_that_contains_itself() -> None:
    """It has a key, and not that of another one."""
    loop: list[Any] = [1]
    loop.append(loop)
    other: list[Any] = [2]
    other.append(other)

    assert key(loop, serializer="pickle") == key(loop, serializer="pickle") != key(other, serializer="pickle")


def test_sets_have_one_key_in_every_process() -> None:
    """The hash seed of a process decides in which order it goes through a set."""
    code = (
        "from tests.unit.test_digests import Order, key\n"
        "print([key({'a', 'b', 'c', 'd', 'e'}, serializer=each) for each in ('pickle', 'yaml')])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": str(seed)}, capture_output=True,
            text=True, check=True,
        ).stdout
        for seed in range(1, 4)
    }  # fmt: skip

    assert len(found) == 1
