"""The matches of a crontab: those of Celery on ordinary days, and by our own rules where a clock is changed."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from celery_perpetual.tasks.wall_clock import count_matches, next_match
from celery_perpetual.times import to_datetime, to_ms

UTC = timezone.utc
APP = Celery("app", set_as_current=False)


def matches(zone: str, first: str, last: str, **fields: Any) -> list[str]:
    """The matches between two times of a zone, as its clock shows them, with the offset in hours."""
    tz, found = ZoneInfo(zone), []
    at, until = (to_ms(datetime.fromisoformat(text).replace(tzinfo=tz)) for text in (first, last))
    while (at := next_match(crontab(**fields, app=APP), tz, at)) < until:
        found.append(
            to_datetime(at).astimezone(tz).isoformat()[5:16] + to_datetime(at).astimezone(tz).strftime("%z")[:3]
        )
    return found


@given(
    st.integers(0, to_ms(datetime(2100, 1, 1, tzinfo=UTC))),
    st.sets(st.integers(0, 59), min_size=1),
    st.sets(st.integers(0, 23), min_size=1),
    st.sets(st.integers(0, 6), min_size=1),
    st.sets(st.integers(1, 28), min_size=1) | st.just(set(range(1, 32))),
    st.sets(st.integers(1, 12), min_size=1),
)
def test_in_utc_the_next_match_is_that_of_celery(
    now: int, minute: set[int], hour: set[int], day_of_week: set[int], day_of_month: set[int], month_of_year: set[int]
) -> None:
    """Our own walk gives the same answer as Celery's crontab wherever no clock is changed."""
    at = to_datetime(now)
    cron = crontab(
        minute, hour, day_of_week, day_of_month, month_of_year, app=APP, nowfun=lambda: at
    )  # fmt: skip

    assert to_datetime(next_match(cron, UTC, now)) == at + cron.remaining_estimate(at)


@pytest.mark.parametrize(
    ("zone", "day", "shown"),
    [
        ("Europe/Berlin", "2026-03-29", "03-29T03:30+02"),
        ("America/New_York", "2026-03-08", "03-08T03:30-04"),
    ],
)
def test_a_time_of_day_that_is_left_out_comes_after_the_change(zone: str, day: str, shown: str) -> None:
    """Half past two does not exist on that day: the match is half an hour after the clocks have been changed."""
    assert matches(zone, f"{day} 00:00", f"{day} 12:00", hour=2, minute=30) == [shown]


def test_a_time_that_is_left_out_and_one_that_it_falls_upon_are_one() -> None:
    """Two and three o'clock are the same moment on the day on which the clock goes from two to three."""
    assert matches("Europe/Berlin", "2026-03-29 00:00", "2026-03-29 12:00", hour="2,3", minute=0) == ["03-29T03:00+02"]


@pytest.mark.parametrize(
    ("zone", "day", "shown"),
    [
        ("Europe/Berlin", "2026-10-25", "10-25T02:30+02"),
        ("America/New_York", "2026-11-01", "11-01T01:30-04"),
    ],
)
def test_a_time_of_day_that_comes_twice_matches_the_first_time(zone: str, day: str, shown: str) -> None:
    """A daily job runs once in the night that has an hour more, the first time its hour is shown."""
    assert matches(zone, f"{day} 00:00", f"{day} 12:00", hour=shown[6:8], minute=30) == [shown]


def test_every_hour_is_every_hour_that_is_shown() -> None:
    """A crontab that matches every hour has no match in the hour left out, and both of the one that comes twice."""
    spring = matches("Europe/Berlin", "2026-03-29 01:00", "2026-03-29 04:30", minute="*/30")
    autumn = matches("Europe/Berlin", "2026-10-25 01:45", "2026-10-25 03:10", minute="*/30")

    assert spring == ["03-29T01:30+01", "03-29T03:00+02", "03-29T03:30+02", "03-29T04:00+02"]
    assert autumn == ["10-25T02:00+02", "10-25T02:30+02", "10-25T02:00+01", "10-25T02:30+01", "10-25T03:00+01"]


@pytest.mark.parametrize(
    ("zone", "first", "last", "fields", "shown"),
    [
        # The change is at midnight: the day begins at one o'clock.
        ("America/Santiago", "2026-09-05 12:00", "2026-09-07 00:30", {"hour": 0, "minute": 15}, ["09-06T01:15-03", "09-07T00:15-03"]),
        # At midnight the clock goes back to eleven in the evening.
        ("America/Santiago", "2026-04-04 12:00", "2026-04-05 12:00", {"hour": 23, "minute": 15}, ["04-04T23:15-03"]),
        # Half an hour.
        ("Australia/Lord_Howe", "2026-10-04 00:00", "2026-10-04 12:00", {"hour": 2, "minute": 15}, ["10-04T02:45+11"]),
        # A whole day that never was.
        ("Pacific/Apia", "2011-12-28 12:00", "2012-01-01 00:00", {"hour": 9, "minute": 0}, ["12-29T09:00-10", "12-31T09:00+14"]),
    ],
)  # fmt: skip
def test_odd_changes_of_clocks_follow_the_same_rules(
    zone: str, first: str, last: str, fields: dict[str, Any], shown: list[str]
) -> None:
    """Changes at midnight, by half an hour and by a day follow the same rules."""
    assert matches(zone, first, last, **fields) == shown


@given(
    st.sampled_from(
        ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Santiago", "Africa/Casablanca"]
    ),
    st.integers(to_ms(datetime(2020, 1, 1, tzinfo=UTC)), to_ms(datetime(2036, 1, 1, tzinfo=UTC))),
    st.sets(st.integers(0, 59), min_size=1, max_size=4),
    st.sets(st.integers(0, 23), min_size=1),
)
def test_every_time_of_day_matches_once_a_day(zone: str, now: int, minutes: set[int], hours: set[int]) -> None:
    """The match is after now, and between now and it no time that the clock shows for the first time matches."""
    tz = ZoneInfo(zone)
    match = next_match(crontab(minutes, hours, app=APP), tz, now)

    assert match > now
    every_hour = len(hours) == 24
    at = to_datetime(now // 60_000 * 60_000)
    for _ in range((match - now) // 60_000):
        at += timedelta(minutes=1)
        shown = at.astimezone(tz)
        if to_ms(at) != match and (every_hour or not shown.fold):
            assert shown.minute not in minutes or shown.hour not in hours


def test_a_rare_day_is_found_and_an_impossible_one_is_refused() -> None:
    """The next 29 February that is a Monday may be decades away; a crontab without any day says so."""
    rare = crontab(0, 0, day_of_week="mon", day_of_month=29, month_of_year=2, app=APP)
    assert (
        to_datetime(next_match(rare, UTC, to_ms(datetime(2072, 3, 1, tzinfo=UTC)))).date().isoformat() == "2112-02-29"
    )

    rare.day_of_month = {31}
    with pytest.raises(ValueError, match="matches no day"):
        next_match(rare, UTC, 0)


def test_a_zone_of_pytz_is_one_like_any_other() -> None:
    """Such zones, which some schedules keep, do not know a time that comes twice; the name is enough."""

    class Pytz:
        zone = "Europe/Berlin"

        def localize(self) -> None: ...

    found = next_match(crontab(hour=9, minute=0, app=APP), Pytz(), to_ms(datetime(2026, 7, 1, tzinfo=UTC)))  # type: ignore[arg-type]

    assert to_datetime(found) == datetime(2026, 7, 1, 7, tzinfo=UTC)


@given(
    st.sampled_from(["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"]),
    st.sampled_from(["2026-03-07", "2026-03-27", "2026-04-03", "2026-10-02", "2026-10-24", "2026-10-31", "2026-12-31"]),
    st.integers(0, 3 * 86_400_000),
    st.integers(0, 4 * 86_400_000),
    st.sets(st.sampled_from([0, 15, 30, 59]), min_size=1),
    st.sets(st.integers(0, 23), min_size=1) | st.just(set(range(24))),
)
def test_matches_are_counted_as_they_come(
    zone: str, day: str, later: int, span: int, minute: set[int], hour: set[int]
) -> None:
    """Whole days at once, the nights in which a clock is changed one match after the other: the same number."""
    cron, tz = crontab(minute, hour, app=APP), ZoneInfo(zone)
    at = after = to_ms(datetime.fromisoformat(day).replace(tzinfo=tz)) + later
    until, count = after + span, 0
    while (at := next_match(cron, tz, at)) <= until:
        count += 1

    assert count_matches(cron, tz, after, until) == count
