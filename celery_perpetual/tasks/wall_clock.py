"""The matches of a crontab on the clock of a time zone, with rules for the nights in which that clock is changed.

Celery's crontab says which minutes, hours and days match; the days are walked here, because Celery's own answer for a
time that does not exist, or exists twice, depends on when it is asked and differs between its versions.

- A crontab that matches every hour follows the clock as it is shown: an hour that is left out has no matches, an hour
  that comes twice has each match twice.
- Any other crontab names times of day. A time that comes twice matches once, the first time. A time that is left out
  matches as long after the change as it would have come after its beginning: 02:30 at 03:30. If that is a match
  anyway, it is one match.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import date, datetime, timedelta, timezone, tzinfo
from typing import Protocol
from zoneinfo import ZoneInfo

from celery_perpetual.times import to_datetime, to_ms

_DAY = timedelta(days=1)
#: A 29 February that is a given day of the week comes again within so many days, also across 2100.
_FURTHEST = 41 * 366


class Crontab(Protocol):
    """The numbers that the fields of Celery's crontab stand for. All five must match; 0 is Sunday."""

    minute: set[int]
    hour: set[int]
    day_of_week: set[int]
    day_of_month: set[int]
    month_of_year: set[int]


def next_match(cron: Crontab, zone: tzinfo, after: int) -> int:
    """The first match after a time; both are milliseconds since the epoch.

    Raises:
        ValueError: there is none within forty years.
    """
    zone = _with_folds(zone)
    # A time that is left out matches later, perhaps on the next day; so the day before counts too.
    start = to_datetime(after).astimezone(zone).date() - _DAY
    for day in _days(cron, start):
        if found := _first(cron, zone, day, after):
            regular = _offset(zone, day) == _offset(zone, day + _DAY)
            following = None if regular or not _matches(cron, day + _DAY) else _first(cron, zone, day + _DAY, after)
            return min(found, following or found)
    raise ValueError(f"{cron!r} matches no day")


def count_matches(cron: Crontab, zone: tzinfo, after: int, until: int) -> int:
    """How many matches there are after a time and up to another one; both are milliseconds since the epoch.

    Days are counted as wholes, so that a year costs no more for a match each minute than for one a day.
    """
    if until <= after:
        return 0
    zone = _with_folds(zone)
    first, last = (to_datetime(each).astimezone(zone).date() for each in (after, until))
    whole, single, per_day = 0, set[int](), len(cron.hour) * len(cron.minute)
    for day in _days(cron, first - _DAY):
        if day > last + _DAY:
            break
        offsets = {_offset(zone, each) for each in (day - _DAY, day, day + _DAY)}
        # The matches of a day in which the clock is changed may come on the next one.
        if len(offsets) > 1 or day - first < 2 * _DAY or last - day < 2 * _DAY:
            single.update(_shown(cron, zone, day))
        else:
            whole += per_day
    return whole + sum(after < match <= until for match in single)


def _days(cron: Crontab, start: date) -> Iterator[date]:
    day, last = start, start + _FURTHEST * _DAY
    while day < last:
        if day.month not in cron.month_of_year:
            day = (day.replace(day=1) + 31 * _DAY).replace(day=1)
            continue
        if _matches(cron, day):
            yield day
        day += _DAY


def _matches(cron: Crontab, day: date) -> bool:
    in_month = day.month in cron.month_of_year and day.day in cron.day_of_month
    return in_month and day.isoweekday() % 7 in cron.day_of_week


def _first(cron: Crontab, zone: tzinfo, day: date, after: int) -> int | None:
    """The first match of a day after a time."""
    if (offset := _offset(zone, day)) != _offset(zone, day + _DAY):
        return min((match for match in _shown(cron, zone, day) if match > after), default=None)
    midnight = to_ms(datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - offset)
    since = (after - midnight) // 60_000
    minutes = sorted(cron.minute)
    for hour in sorted(cron.hour):
        if (index := bisect_right(minutes, since - 60 * hour)) < len(minutes):
            return midnight + (60 * hour + minutes[index]) * 60_000
    return None


def _shown(cron: Crontab, zone: tzinfo, day: date) -> Iterator[int]:
    """The matches of a day, in which the clock may be changed, in no order."""
    every_hour = len(cron.hour) == 24
    for hour in cron.hour:
        for minute in cron.minute:
            first = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
            second = first.replace(fold=1)
            before, after = first.utcoffset(), second.utcoffset()
            assert before is not None
            assert after is not None
            is_left_out, comes_twice = before < after, before > after
            if not (is_left_out and every_hour):
                yield to_ms(first)
            if comes_twice and every_hour:
                yield to_ms(second)


def _offset(zone: tzinfo, day: date) -> timedelta:
    """How far the clock is ahead of UTC when a day begins."""
    offset = datetime(day.year, day.month, day.day, tzinfo=zone).utcoffset()
    assert offset is not None
    return offset


def _with_folds(zone: tzinfo) -> tzinfo:
    """The zone as one that knows of times which come twice: those of pytz, which some schedules keep, do not."""
    name = getattr(zone, "zone", None)
    return ZoneInfo(name) if isinstance(name, str) and hasattr(zone, "localize") else zone
