"""The hours of the day in which a task is polled."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from celery_perpetual.errors import ContractError
from celery_perpetual.times import to_datetime, to_ms

_FORM = re.compile(r"(\d\d?):(\d\d)\s*-\s*(\d\d?):(\d\d)(?:\s+(\S+))?")


@dataclass(frozen=True, slots=True)
class Window:
    """From one time of the day up to another one, which may be on the next day."""

    begin: time
    end: time
    zone: str

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M} {self.zone}"

    def opens(self, now: int) -> int | None:
        """When it opens next, or None where it is open; ms of the store's time."""
        at = to_datetime(now).astimezone(ZoneInfo(self.zone))
        if self._holds(at.time()):
            return None
        opening = datetime.combine(at.date(), self.begin, at.tzinfo)
        if opening <= at:
            opening = datetime.combine(at.date() + timedelta(days=1), self.begin, at.tzinfo)
        return max(now + 1, to_ms(opening))

    def _holds(self, at: time) -> bool:
        if self.begin < self.end:
            return self.begin <= at < self.end
        return at >= self.begin or at < self.end


def read_window(seen: Any) -> Window | None:
    """``"08:00-20:00 Europe/Berlin"``; without a zone UTC.

    Raises:
        ContractError: it is written in another way, or there is no such time or zone.
    """
    if seen is None or isinstance(seen, Window):
        return seen
    what = "perpetual option window"
    found = _FORM.fullmatch(seen.strip()) if isinstance(seen, str) else None
    if found is None:
        raise ContractError(f'{what} must be written like "08:00-20:00 Europe/Berlin", got {seen!r}')
    numbers, zone = [int(each) for each in found.groups()[:4]], found[5] or "UTC"
    try:
        begin, end = time(numbers[0], numbers[1]), time(numbers[2] % 24, numbers[3])
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError) as error:  # a zone that is not there is a KeyError
        raise ContractError(f"{what}: {seen!r} names no such time or zone: {error}") from None
    if begin == end:
        raise ContractError(f"{what}: begin and end must differ, got {seen!r}")
    return Window(begin, end, zone)
