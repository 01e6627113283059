"""The slots of calendars: matches in their own zone, a floor, schedules of users, both changes of the clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab
from hypothesis import given
from hypothesis import strategies as st

from celery_perpetual.tasks.cadence import SHORTEST_CALENDAR_MS, Cadence
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.times import to_datetime, to_ms

if TYPE_CHECKING:
    from collections.abc import Callable


UTC = timezone.utc


DAY_MS = 24 * 3600 * 1000


TIME = st.integers(0, to_ms(datetime(2100, 1, 1, tzinfo=UTC)))


def at(text: str) -> int:
    """Milliseconds of a time in UTC, written like ``2024-05-01 10:07:30.500``."""
    return to_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def calendar(**fields: Any) -> crontab:
    """A crontab in UTC that belongs to no current app."""
    return crontab(**fields, app=Celery("app", set_as_current=False))


@pytest.mark.parametrize(
    ("fields", "now", "match"),
    [
        ({"minute": "*/15"}, "2024-05-01 10:07:30.500", "2024-05-01 10:15"),
        ({"minute": "*/15"}, "2024-05-01 10:14:59.999", "2024-05-01 10:15"),
        ({"minute": "*/15"}, "2024-05-01 10:15:00.000", "2024-05-01 10:30"),
        ({"minute": "*/15"}, "2024-12-31 23:50", "2025-01-01 00:00"),
        ({"hour": 3, "minute": 0}, "2024-05-01 02:59:59", "2024-05-01 03:00"),
        ({"hour": 3, "minute": 0}, "2024-05-01 03:00:00.001", "2024-05-02 03:00"),
        ({"hour": 3, "minute": 0, "day_of_month": 29, "month_of_year": 2}, "2024-03-01 00:00", "2028-02-29 03:00"),
        ({"hour": 8, "minute": 30, "day_of_week": "mon"}, "2024-05-01 10:00", "2024-05-06 08:30"),
    ],
)
def test_a_calendar_waits_for_its_first_match(fields: dict[str, Any], now: str, match: str) -> None:
    """A crontab is not polled at once, but at the first match after now, to the millisecond."""
    assert to_datetime(Cadence(calendar(**fields)).first(at(now), 99.0)) == to_datetime(at(match))


@pytest.mark.parametrize("late", ["10:15", "10:15:00.300", "10:29:59.999"])
def test_a_calendar_goes_from_match_to_match(late: str) -> None:
    """The slot of a crontab is its match; the following one is the next match after now."""
    cadence, due = Cadence(calendar(minute="*/15")), at("2024-05-01 10:15")

    found = cadence.occurrence(due, None, "", at(f"2024-05-01 {late}"))

    assert found.slot == due
    assert found.following == at("2024-05-01 10:30")


def test_matches_that_were_missed_are_one_slot() -> None:
    """After hours without any beat a crontab is polled once and then at its next match."""
    cadence, due = Cadence(calendar(minute="*/15")), at("2024-05-01 10:15")

    found = cadence.occurrence(due, due, "", at("2024-05-01 13:20"))

    assert found.slot == due
    assert found.following == at("2024-05-01 13:30")


@given(TIME, st.sets(st.integers(0, 59), min_size=1), st.sets(st.integers(0, 23), min_size=1))
def test_no_match_of_a_calendar_is_left_out(now: int, minutes: set[int], hours: set[int]) -> None:
    """The first match is after now, a match, and there is none between."""
    cadence = Cadence(calendar(minute=minutes, hour=hours))

    match = to_datetime(cadence.first(now, 0))

    start = to_datetime(now).replace(second=0, microsecond=0)
    candidates = (start + timedelta(minutes=n) for n in range(1, 24 * 60 + 1))
    assert match == next(one for one in candidates if one.minute in minutes and one.hour in hours)


def test_a_calendar_counts_in_the_timezone_of_its_app() -> None:
    """Nine o'clock is nine o'clock in the app's ``timezone``, also where that app is not the current one."""
    app = Celery("app", set_as_current=False)
    app.conf.timezone = "Asia/Tokyo"

    @app.task(poll_every=crontab(hour=9, minute=0), next_batch=list, shared=False)
    def morning() -> None: ...

    cadence = discover(app).tasks[morning.name].cadence

    assert to_datetime(cadence.first(at("2024-05-01 12:00"), 0)) == datetime(2024, 5, 2, 0, 0, tzinfo=UTC)


@given(TIME, st.integers(0, 600))
def test_the_slot_of_a_late_calendar_is_its_match(now: int, jitter: int) -> None:
    """With jitter a crontab is polled after its match, and the match is the slot."""
    cadence = Cadence(calendar(minute="*/15"), jitter=jitter, salt="shop.deliver")
    earlier = cadence.occurrence(now, None, "", now)

    found = cadence.occurrence(earlier.following, earlier.anchor, "", earlier.following)

    slot = to_datetime(found.slot)
    assert (slot.minute % 15, slot.second, slot.microsecond) == (0, 0, 0)
    assert now < found.slot <= earlier.following <= found.slot + max(jitter * 1000, SHORTEST_CALENDAR_MS)


def test_a_poll_right_before_a_match_leaves_the_match_where_it_is() -> None:
    """The pace has a floor; what it holds back is the poll, and the slot stays that of the calendar."""
    cadence = Cadence(calendar(minute="*/15"))
    match = 64_100_700_000
    nudged = cadence.occurrence(match - 1, match, "nudge", match - 1)

    found = cadence.occurrence(nudged.following, nudged.anchor, "", nudged.following)

    assert (nudged.slot, found.slot) == (match - 1, match)
    assert nudged.following == match - 1 + SHORTEST_CALENDAR_MS


def test_the_users_calendar_is_not_changed() -> None:
    """Asking a schedule for its matches leaves the user's own object as it was."""
    given_as = calendar(minute=0)
    before = dict(vars(given_as))

    Cadence(given_as).first(at("2024-05-01 10:00"), 0)

    assert vars(given_as) == before


class EveryThirdSecond(BaseSchedule):
    """A schedule of one's own: whole seconds that are multiples of three."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        since = last_run_at.timestamp()
        return timedelta(seconds=(since // 3 + 1) * 3 - self.now().timestamp())

    def __repr__(self) -> str:
        return "<every third second>"


def test_a_schedule_of_ones_own_is_asked() -> None:
    """Any Celery schedule will do, with the store's time as its clock."""
    cadence = Cadence(EveryThirdSecond(app=Celery("app", set_as_current=False)))

    assert cadence.first(10_500, 0) == 12_000
    assert cadence.occurrence(12_000, None, "", 12_000).following == 15_000
    assert cadence.spec == "at <every third second> UTC"


class Behind(crontab):
    """Always answers the past."""

    def remaining_estimate(self, last_run_at: datetime, **options: Any) -> timedelta:
        return timedelta(hours=-1)


class Hurried(crontab):
    """Always answers the next moment."""

    def remaining_estimate(self, last_run_at: datetime, **options: Any) -> timedelta:
        return timedelta(milliseconds=1)


@pytest.mark.parametrize(("calendar", "shortest"), [(Behind(), 1000), (Hurried(), 100)])
def test_a_calendar_has_a_floor(calendar: crontab, shortest: int) -> None:
    """The slots of a user's own schedule are not closer than that, whatever it answers."""
    now = at("2024-05-01 12:00")

    assert Cadence(calendar).occurrence(now, now, "", now).following == now + shortest


@pytest.mark.parametrize("minute", range(0, 60, 7))
def test_in_the_hour_that_is_repeated_the_next_match_lies_ahead(minute: int) -> None:
    """At the end of summer time in Berlin, 02:00 to 03:00 comes twice; 00:00 UTC is 02:00 for the first time."""
    app = Celery("berlin", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"
    cadence = Cadence(crontab(minute="*/15"), app=app)
    now = at("2024-10-27 01:00") + minute * 60_000

    found = cadence.occurrence(now, now, "", now).following

    assert found == at("2024-10-27 01:00") + (minute // 15 + 1) * 15 * 60_000


def tz_aware() -> crontab:
    """As django-celery-beat's: a zone of its own, and a clock that shows it."""

    class TzAware(crontab):
        def __init__(self, *, tz: ZoneInfo, **fields: Any) -> None:
            self.tz = tz
            super().__init__(nowfun=lambda: datetime.now(tz), **fields)

    return TzAware(tz=ZoneInfo("Asia/Tokyo"), hour=9, minute=0)


def with_clock() -> crontab:
    return crontab(hour=9, minute=0, nowfun=lambda: datetime.now(ZoneInfo("Asia/Tokyo")))


def with_zone() -> crontab:
    found = crontab(hour=9, minute=0)
    found.tz = ZoneInfo("Asia/Tokyo")
    return found


@pytest.mark.parametrize("make", [tz_aware, with_clock, with_zone])
def test_a_zone_of_the_calendar_is_kept(make: Callable[[], crontab]) -> None:
    """Nine in Tokyo is midnight UTC, whatever the zone of the app."""
    app = Celery("berlin", set_as_current=False)
    app.conf.timezone = "Europe/Berlin"

    found = Cadence(make(), app=app).first(at("2024-05-01 12:00"), 0)

    assert found == at("2024-05-02 00:00")
