"""Records: what the ledger keeps of an item comes back as it was."""

from __future__ import annotations

from datetime import datetime, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kombu import serialization

from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import Record, decode, encode, task_of

UNIT = "shop.deliver"
SERIALIZERS = ("json", "pickle", "yaml", "msgpack")

# Texts that every serialiser can carry.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Co", "Cn"]))
SIMPLE = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
VALUE = st.recursive(
    SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=8
)
KEY = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WORD = st.text("abc:%é東 \n", min_size=1, max_size=12)


def written(
    args: Any,
    kwargs: Any,
    *,
    serializer: str = "json",
    task: str = UNIT,
    key: str | None = "k",
    options: Any = None,
    reprs: tuple[str, str] | None = None,
) -> bytes:
    """The record of an item."""
    data = serialization.dumps((args, kwargs), serializer)[2]
    body = data.encode() if isinstance(data, str) else bytes(data)
    return encode(CheckedItem(task, body, serializer, options or {}, key, reprs), UNIT)


@pytest.mark.parametrize("serializer", SERIALIZERS)
@given(args=st.lists(VALUE, max_size=3), kwargs=st.dictionaries(TEXT, VALUE, max_size=3), key=KEY)
@example(args=[], kwargs={}, key="")
@example(args=["zürich"], kwargs={"東京": "\n1 2 3\n"}, key="1 - 5\n東京 ")
def test_a_record_comes_back_as_it_was(serializer: str, args: Any, kwargs: Any, key: str | None) -> None:
    """Arguments and key survive the record in every serialiser, whatever characters are in them."""
    found = decode(written(args, kwargs, serializer=serializer, key=key), UNIT)

    assert found == Record(task=UNIT, args=tuple(args), kwargs=kwargs, options={}, key=key, reprs=None)


@given(WORD, st.dictionaries(WORD, VALUE, max_size=4), KEY, st.none() | st.tuples(TEXT, TEXT))
def test_what_differs_comes_back_too(task: str, options: Any, key: str | None, reprs: tuple[str, str] | None) -> None:
    """Another task, options and notations survive the record."""
    found = decode(written([1], {}, task=task, options=options, key=key, reprs=reprs), UNIT)

    assert (found.task, found.options, found.key, found.reprs) == (task, options, key, reprs)
    assert task_of(written([1], {}, task=task, options=options, key=key, reprs=reprs)) == task


def test_no_key_and_an_empty_key_are_told_apart() -> None:
    """An item that opted out has no key; an empty text is one."""
    assert decode(written([], {}, key=None), UNIT).key is None
    assert decode(written([], {}, key=""), UNIT).key == ""


def test_values_that_kombu_knows_come_back() -> None:
    """Datetimes, decimals, UUIDs and bytes are what they were, in arguments and in options."""
    values = [datetime(2024, 5, 1, tzinfo=timezone.utc), Decimal("1.50"), UUID(int=7), b"raw", b"\xff\x00"]

    found = decode(written(values, {}, options={"headers": {"at": values[0], "price": values[1]}}), UNIT)

    assert list(found.args) == values
    assert found.options == {"headers": {"at": values[0], "price": values[1]}}


def test_pickle_keeps_types() -> None:
    """Pickled arguments are not bent into JSON's types."""
    args, kwargs = ((1, (2, {3})), frozenset({4})), {"when": datetime(2024, 5, 1)}

    found = decode(written(args, kwargs, serializer="pickle"), UNIT)

    assert (found.args, found.kwargs) == (args, kwargs)


def test_an_ordinary_record_is_small() -> None:
    """Values that equal the unit's defaults are not written: version, key and arguments are all."""
    assert written([7], {}, key="7") == b"1 1 0\n7[[7], {}]"
    assert written([7], {}, key=None) == b"1 - 0\n[[7], {}]"


@pytest.mark.parametrize("record", [b"2 1 0\n7[[7], {}]", b"0 - 0\n[[7], {}]", b"11 - 0\n[[7], {}]"])
def test_a_record_of_another_version_is_refused(record: bytes) -> None:
    """A record of a later release is not guessed at."""
    with pytest.raises(ValueError, match=r"the ledger record has version b'\d+', and this release reads b'1'"):
        decode(record, UNIT)
