"""Bytes of serializers: Kombu's own, and so are the errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu.serialization import dumps
from kombu.utils import json as kombu_json

from celery_perpetual.ledger.serializers import Encoding, encoder

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.uuids() | st.datetimes()
VALUES = st.recursive(
    SCALARS | st.decimals() | st.dates() | st.binary(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner)
        | st.dictionaries(st.text() | st.integers() | st.booleans() | st.none() | st.floats(), inner, max_size=3)
    ),
    max_leaves=10,
)  # fmt: skip

#: One for all values, as a poll has.
ENCODE = encoder("json")


class Shown:
    """A value that says itself how it is written."""

    def __json__(self) -> Any:
        return {"shown": [self.__class__.__name__]}


@given(VALUES)
@example(("\ud800", "\u2028", "é", float("nan"), float("-inf"), 10**40))
@example({"a": Shown(), 1: ()})
def test_json_is_kombus_to_the_byte(value: Any) -> None:
    """Any value, after any other one."""
    assert ENCODE(value) == kombu_json.dumps(value).encode()
    assert ENCODE(value) == dumps(value, "json")[2].encode()


def circular() -> Any:
    """A list that contains itself."""
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize("value", [circular(), object(), {(1, 2): 3}, [{"deep": object()}]])
def test_what_json_cannot_write_is_said_as_kombu_says_it(value: Any) -> None:
    """The same error, and the next value is written as if nothing had been."""
    with pytest.raises((TypeError, ValueError)) as usual:
        kombu_json.dumps(value)

    with pytest.raises(type(usual.value)) as ours:
        ENCODE(value)

    assert str(ours.value) == str(usual.value)
    assert ENCODE([1]) == b"[1]"


@pytest.mark.parametrize(
    ("name", "plain", "keeps"), [("json", True, False), ("pickle", False, True), ("yaml", False, False)]
)
def test_an_encoding_knows_its_serializer(name: str, plain: bool, keeps: bool) -> None:
    """Plain JSON has one text for one value; pickle brings back the very types."""
    encoding = Encoding.of(name)

    assert (encoding.is_plain_json, encoding.keeps_types) == (plain, keeps)
    assert encoding.encode(((1,), {"b": 1, "a": 2})) == as_bytes(dumps(((1,), {"b": 1, "a": 2}), name)[2])


def as_bytes(data: Any) -> bytes:
    """A serializer's output, which may be a text."""
    return data.encode() if isinstance(data, str) else bytes(data)
