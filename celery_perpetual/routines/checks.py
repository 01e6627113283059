"""Checks of single values that users give for routines; each error names the field, the value, and what is allowed."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from celery_perpetual.errors import InvalidRoutine, shown_value
from celery_perpetual.settings import MOST_WHOLE
from celery_perpetual.times import to_ms_floor

#: 9999-12-31: no routine has a later time.
LAST = 253_402_214_400_000


def refusal(field: str, seen: object, allowed: str, what: str = "routine field ") -> InvalidRoutine:
    """The error for a value; ``what`` stands before the name of the field."""
    return InvalidRoutine(f"{what}{field} must be {allowed}, got {shown_value(seen)}", field, seen)


def a_time(field: str, seen: Any, what: str = "routine field ") -> int:
    """A time as milliseconds.

    Raises:
        InvalidRoutine: it has no time zone, or the store could not keep it.
    """
    if not isinstance(seen, datetime) or seen.utcoffset() is None:
        raise refusal(field, seen, "a datetime with a time zone", what)
    found = to_ms_floor(seen)
    if not 0 <= found <= LAST:
        raise refusal(field, seen, "a time from 1970 to 9999", what)
    return found


def a_truth(field: str, seen: Any, what: str = "routine field ") -> bool:
    """True or False, and nothing that only counts as such."""
    if not isinstance(seen, bool):
        raise refusal(field, seen, "True or False", what)
    return seen


def a_count(field: str, seen: Any, what: str = "routine field ", *, most: int = MOST_WHOLE) -> int:
    """A whole number of at least 1."""
    if isinstance(seen, bool) or not isinstance(seen, int) or seen < 1:
        raise refusal(field, seen, "a whole number of at least 1", what)
    if seen > most:
        raise refusal(field, seen, f"at most {most}", what)
    return seen
