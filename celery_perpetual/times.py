"""Times on the ground floor: the store keeps milliseconds, people and programs get RFC 3339 and aware datetimes."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from functools import lru_cache

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def steady() -> float:
    """Seconds of a clock that never steps and runs while the machine is suspended; all its processes share it.

    What is believed until a time that the store keeps is believed by this clock: ``time.monotonic`` stands still on a
    suspended machine, and the store's time goes on.
    """
    return time.clock_gettime(_STEADY)


def ms(seconds: float) -> int:
    """Seconds as whole milliseconds, as the store's scripts take durations."""
    return round(seconds * 1000)


def to_datetime(ms: float) -> datetime:
    """Milliseconds since the epoch as an aware datetime."""
    return _EPOCH + timedelta(milliseconds=ms)  # exact, also where a float of seconds is not


def to_ms(at: datetime) -> int:
    """An aware datetime as milliseconds since the epoch."""
    return round(at.timestamp() * 1000)


def to_ms_floor(at: datetime) -> int:
    """The same, and never later than it is."""
    return (at - _EPOCH) // timedelta(milliseconds=1)


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as an aware datetime."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_ms(ms: int) -> str:
    """Milliseconds since the epoch as :func:`format_time` writes them, in a third of the time."""
    days, of_day = divmod(ms, 86_400_000)
    seconds, rest = divmod(of_day, 1000)
    return f"{_date(days)}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}.{rest:03d}Z"


@lru_cache(256)
def _date(days: int) -> str:
    return (_EPOCH + timedelta(days=days)).date().isoformat()


@lru_cache(256)
def format_time(at: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC, with milliseconds."""
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
