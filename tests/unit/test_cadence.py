"""The grid of slots: never drifting, one slot for a missed stretch, calendars by their matches."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab, schedule
from hypothesis import assume, given
from hypothesis import strategies as st

from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.cadence import Cadence
from celery_perpetual.times import format_ms, format_time, to_datetime, to_ms

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


def test_rounding_to_the_clock_is_not_lost() -> None:
    """Celery's ``schedule(relative=True)`` starts at round times of the clock; it is honoured or refused."""
    try:
        cadence = Cadence(schedule(3600, relative=True, app=Celery("app", set_as_current=False)))
    except ContractError:
        return

    assert to_datetime(cadence.first(at("2024-05-01 10:07"), 0)) == datetime(2024, 5, 1, 11, tzinfo=UTC)


def test_equal_schedules_have_equal_specs() -> None:
    """The text by which the leader sees that a schedule was changed is equal for equal schedules only."""
    assert Cadence(30).spec == Cadence(timedelta(seconds=30)).spec
    assert Cadence(30).spec != Cadence(31).spec
    assert Cadence(calendar(minute=5)).spec == Cadence(calendar(minute=5)).spec
    assert Cadence(calendar(minute=5)).spec != Cadence(calendar(minute=6)).spec


@given(TIME)
def test_milliseconds_survive_datetimes(now: int) -> None:
    """A time of the store goes through an aware datetime and back unchanged."""
    assert to_ms(to_datetime(now)) == now
    assert to_datetime(now).tzinfo is UTC
    assert format_ms(now) == format_time(to_datetime(now))


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
