"""Results that are kept with the end of a task: their JSON, where it is not too long."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_perpetual.completions.completion import LONGEST_RESULT, inline

values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_it_is_what_json_writes(value: Any) -> None:
    """Nulls, numbers and texts are written without an encoder, and containers with one."""
    text = json.dumps(value)

    assert inline(value) == (text if len(text) <= LONGEST_RESULT else "null")


@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, [math.nan], {1, 2}, object(), 10**5000, b"bytes"],
    ids=["nan", "inf", "inside", "set", "object", "long", "bytes"],
)
def test_what_is_no_json_is_left_out(value: Any) -> None:
    """Celery's own result has it."""
    assert inline(value) == "null"


def test_what_is_too_long_is_left_out() -> None:
    """To the character, and also where there is no end to it."""
    endless: list[Any] = []
    endless.append(endless)

    assert inline({"data": [float(n) for n in range(100_000)]}) == inline(endless) == "null"
    assert inline(["x" * (LONGEST_RESULT - 4)]) != "null"
    assert inline(["x" * (LONGEST_RESULT - 3)]) == "null"
