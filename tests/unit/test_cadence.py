"""The grid of slots: never drifting, one slot for a missed stretch, calendars by their matches."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, schedule
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.cadence import SHORTEST_CALENDAR_MS, Cadence
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.times import to_datetime, to_ms

if TYPE_CHECKING:
    from collections.abc import Callable

UTC = timezone.utc
DAY_MS = 24 * 3600 * 1000

EVERY = st.integers(10, 400 * DAY_MS)
TIME = st.integers(0, to_ms(datetime(2100, 1, 1, tzinfo=UTC)))


def every(milliseconds: int) -> Cadence:
    return Cadence(timedelta(milliseconds=milliseconds))


def at(text: str) -> int:
    """Milliseconds of a time in UTC, written like ``2024-05-01 10:07:30.500``."""
    return to_ms(datetime.fromisoformat(text).replace(tzinfo=UTC))


def calendar(**fields: Any) -> crontab:
    """A crontab in UTC that belongs to no current app."""
    return crontab(**fields, app=Celery("app", set_as_current=False))


@given(EVERY, TIME, TIME)
def test_the_slot_is_the_latest_point_of_the_grid(interval: int, anchor: int, now: int) -> None:
    """Slot and following due time are neighbours on the grid, with now between them, however late the poll is."""
    assume(anchor <= now)

    found = every(interval).occurrence(anchor, anchor, "", now)

    assert found.slot <= now < found.following
    assert (found.slot - anchor) % interval == 0
    assert found.following - found.slot == interval


@given(EVERY, TIME, st.lists(st.integers(0, 10 * DAY_MS), min_size=1, max_size=20))
def test_the_grid_never_drifts(interval: int, anchor: int, delays: list[int]) -> None:
    """However late each poll of a long row comes, every slot stays on the grid and is newer than the last."""
    cadence = every(interval)
    due, last = anchor, anchor - interval
    for delay in delays:
        found = cadence.occurrence(due, anchor, "", due + delay)
        assert (found.slot - anchor) % interval == 0
        assert last < found.slot <= due + delay < found.following
        due, last = found.following, found.slot


@given(EVERY, TIME, TIME, TIME)
def test_a_poll_between_slots_is_its_own_slot_and_goes_back_to_the_grid(
    interval: int, anchor: int, due: int, now: int
) -> None:
    """A due time off the grid (a drain, a back-off) is the slot; the one that follows is on the grid again."""
    assume(anchor <= due <= now)

    found = every(interval).occurrence(due, anchor, "drain", now)

    assert found.slot == due
    assert now < found.following <= now + interval
    assert (found.following - anchor) % interval == 0


def test_the_first_claim_is_the_anchor() -> None:
    """Without an anchor the first due time is one."""
    assert every(5000).occurrence(100_000, None, "", 100_030).slot == 100_000


def test_a_missed_stretch_is_one_slot() -> None:
    """After an hour without any beat there is one poll for the latest slot, not sixty."""
    cadence, anchor = every(60_000), at("2024-05-01 10:00")

    found = cadence.occurrence(anchor, anchor, "", at("2024-05-01 11:02:30"))

    assert to_datetime(found.slot) == datetime(2024, 5, 1, 11, 2, tzinfo=UTC)
    assert to_datetime(found.following) == datetime(2024, 5, 1, 11, 3, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe"])
def test_daylight_saving_does_not_touch_intervals(zone: str) -> None:
    """Twenty-four hours are twenty-four hours, also in the nights in which clocks are changed."""
    cadence = Cadence(timedelta(days=1))
    anchor = to_ms(datetime(2024, 1, 1, 12, tzinfo=ZoneInfo(zone)))
    due, slots = anchor, []
    for _ in range(366):
        found = cadence.occurrence(due, anchor, "", due + 1)
        slots.append(found.slot)
        due = found.following

    assert {later - earlier for earlier, later in zip(slots, slots[1:], strict=False)} == {DAY_MS}


def test_an_interval_is_polled_at_once() -> None:
    """The first poll of an interval does not wait, but for the spread that it is given."""
    assert every(60_000).first(1000, 0) == 1000
    assert every(60_000).first(1000, 250.7) == 1250


@pytest.mark.parametrize(
    ("given_as", "milliseconds"),
    [
        (30, 30_000),
        (0.25, 250),
        (timedelta(minutes=2), 120_000),
        (schedule(45), 45_000),
        (schedule(timedelta(hours=1)), 3_600_000),
        (0.01, 10),
    ],
)
def test_an_interval_may_be_given_in_every_form(given_as: Any, milliseconds: int) -> None:
    """Numbers, timedeltas and Celery's interval schedule are one and the same."""
    cadence = Cadence(given_as)

    assert (cadence.every_ms, cadence.calendar) == (milliseconds, None)
    assert cadence.seconds == milliseconds / 1000


@pytest.mark.parametrize(
    ("given_as", "says"),
    [
        (0, "must be at least 0.01 seconds, got 0"),
        (-5, "must be at least 0.01 seconds, got -5"),
        (0.001, "must be at least 0.01 seconds, got 0.001"),
        (timedelta(0), r"must be at least 0.01 seconds, got datetime.timedelta\(0\)"),
        ("30", "must be seconds, a timedelta or a Celery schedule, got '30'"),
        (True, "must be seconds, a timedelta or a Celery schedule, got True"),
        (float("nan"), "must be seconds, a timedelta or a Celery schedule, got nan"),
        (float("inf"), "must be seconds, a timedelta or a Celery schedule, got inf"),
        ([30], r"must be seconds, a timedelta or a Celery schedule, got \[30\]"),
        (schedule(-1), "must be at least 0.01 seconds"),
    ],
)
def test_what_is_no_interval_is_refused(given_as: Any, says: str) -> None:
    """Nonsense is refused with what was seen."""
    with pytest.raises(ContractError, match=f"^poll_every {says}"):
        Cadence(given_as)


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


@given(EVERY, st.floats(0, 1, exclude_max=True), TIME, st.lists(st.integers(0, DAY_MS), min_size=1, max_size=20))
def test_jitter_moves_polls_and_not_slots(interval: int, share: float, anchor: int, delays: list[int]) -> None:
    """With jitter a poll is due a little after its slot; the slots stay on the grid, each newer than the last."""
    assume(round(interval * share) < interval)
    cadence = Cadence(timedelta(milliseconds=interval), jitter=interval * share / 1000, salt="shop.deliver")
    due, last = anchor, anchor - interval
    for delay in delays:
        found = cadence.occurrence(due, anchor, "", due + delay)
        assert (found.slot - anchor) % interval == 0
        assert last < found.slot <= due + delay
        grid = found.slot + interval
        assert grid <= found.following <= grid + cadence.jitter_ms
        due, last = max(found.following, due + delay), found.slot


def test_jitter_is_the_same_on_every_beat() -> None:
    """How late a slot is polled depends on slot and task alone."""
    some, other = (Cadence(60, jitter=30, salt=salt) for salt in ("shop.deliver", "shop.fetch"))
    again = Cadence(60, jitter=30, salt="shop.deliver")
    dues = [
        [each.occurrence(n, n, "", n).following - n for n in range(0, 10**7, 10**6)] for each in (some, again, other)
    ]

    assert dues[0] == dues[1] != dues[2]
    assert len(set(dues[0])) > 5


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


def test_rounding_to_the_clock_is_not_lost() -> None:
    """Celery's ``schedule(relative=True)`` starts at round times of the clock; it is honoured or refused."""
    try:
        cadence = Cadence(schedule(3600, relative=True, app=Celery("app", set_as_current=False)))
    except ContractError:
        return

    assert to_datetime(cadence.first(at("2024-05-01 10:07"), 0)) == datetime(2024, 5, 1, 11, tzinfo=UTC)


def test_equal_schedules_have_equal_specs() -> None:
    """What tells the leader that a schedule was changed is equal for equal schedules and differs for others."""
    assert Cadence(30).spec == Cadence(timedelta(seconds=30)).spec
    assert Cadence(30).spec != Cadence(31).spec
    assert Cadence(calendar(minute=5)).spec == Cadence(calendar(minute=5)).spec
    assert Cadence(calendar(minute=5)).spec != Cadence(calendar(minute=6)).spec


@given(TIME)
def test_milliseconds_survive_datetimes(now: int) -> None:
    """A time of the store goes through an aware datetime and back unchanged."""
    assert to_ms(to_datetime(now)) == now
    assert to_datetime(now).tzinfo is UTC


def test_a_jitter_of_days_costs_one_question() -> None:
    """The slot of a late calendar is remembered, not searched for: each occurrence asks for one match."""
    asked = []

    class Counted(crontab):
        def remaining_estimate(self, last_run_at: datetime, **options: Any) -> timedelta:
            asked.append(last_run_at)
            return super().remaining_estimate(last_run_at, **options)

    cadence = Cadence(Counted(), jitter=3 * 86400)
    found = cadence.occurrence(at("2024-05-01 12:00"), None, "", at("2024-05-01 12:00"))
    later = cadence.occurrence(found.following, found.anchor, "", found.following)

    assert later.slot == at("2024-05-01 12:01")
    assert len(asked) == 2


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
    """Whatever a schedule of the user's own answers, its slots are not closer than that."""
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
