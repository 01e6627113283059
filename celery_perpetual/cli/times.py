"""Times for people: in the zone of this machine, with the age or the time that is left beside them."""

from __future__ import annotations

import re
from datetime import datetime, timezone

from celery_perpetual.times import parse_time

_WRITTEN = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_STEPS = ((48 * 3600, 24 * 3600, "d"), (2 * 3600, 3600, "h"), (120, 60, "min"), (0, 1, "s"))


def shown(at: datetime | None, now: datetime | None = None) -> str | None:
    """``15:40:12 (12 s ago)``, with the date where that is not today's."""
    if at is None:
        return None
    now = now or datetime.now(timezone.utc)
    here = at.astimezone()
    day = "" if here.date() == now.astimezone().date() else f"{here:%Y-%m-%d} "
    return f"{day}{here:%H:%M:%S} ({age(at, now)})"


def age(at: datetime, now: datetime | None = None) -> str:
    """``12 s ago``, ``3 h ago``, ``in 5 min``."""
    seconds = ((now or datetime.now(timezone.utc)) - at).total_seconds()
    text = duration(abs(seconds))
    return f"in {text}" if seconds < -0.5 else f"{text} ago"


def for_how_long(since: datetime | None) -> str:
    """``, for 12 s``; nothing where no time is known."""
    return "" if since is None else f", for {age(since).removesuffix(' ago')}"


def duration(seconds: float) -> str:
    """``12 s``, ``5 min``, ``3 h``, ``2 d``; below ten seconds with a tenth."""
    if seconds < 9.95:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    return next(f"{seconds / unit:.0f} {name}" for least, unit, name in _STEPS if seconds >= least)


def localized(text: str) -> str:
    """A text in which each RFC 3339 time in UTC is written as :func:`shown` does."""
    return _WRITTEN.sub(lambda found: shown(parse_time(found[0])) or "", text)
