"""The slots of a routine: on the grid, missed ones by rule, calendars by their matches, and stored as JSON."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import crontab
from hypothesis import assume, example, given
from hypothesis import strategies as st

from celery_perpetual.routines.slots import Next, Timetable
from celery_perpetual.routines.timetables import timetable
from celery_perpetual.times import to_datetime, to_ms

UTC = timezone.utc
APP = Celery("app", set_as_current=False)
BERLIN = ZoneInfo("Europe/Berlin")
NEW_YORK = ZoneInfo("America/New_York")
NOW = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)

TIME = st.integers(0, to_ms(datetime(2100, 1, 1, tzinfo=UTC)))
EVERY = st.integers(10, 400 * 86_400_000)


def at(milliseconds: int) -> datetime:
    return to_datetime(milliseconds)


def seconds(*found: datetime) -> list[float]:
    return [each.timestamp() for each in found]


def run_all(made: Timetable, slot: datetime | None, now: datetime, most: int = 1000) -> list[datetime]:
    """The slots that are run at one moment, each followed by the next, until nothing is due."""
    ran: list[datetime] = []
    while slot is not None and slot <= now and len(ran) < most:
        ran.append(slot)
        slot = made.following(slot, now, len(ran)).slot
    return ran


@given(EVERY, TIME, TIME, st.lists(st.integers(0, 10 * 86_400_000), min_size=1, max_size=20))
def test_slots_of_an_interval_stay_on_the_grid(every: int, start: int, now: int, delays: list[int]) -> None:
    """However late each run is, the slot is on the grid, and the next one is the first after now."""
    made = timetable(every=timedelta(milliseconds=every), start_at=at(start))
    slot = made.first(at(now))
    assert slot == at(start)
    for delay in delays:
        assert slot is not None
        later = slot + timedelta(milliseconds=delay)
        following, missed, dropped = made.following(slot, later)
        assert following is not None
        assert (to_ms(following) - start) % every == 0
        assert later < following <= later + timedelta(milliseconds=every)
        assert (missed, dropped) == ((), 0)
        slot = following


@given(EVERY, TIME, st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 200))
def test_missed_slots_are_run_one_by_one_the_newest(every: int, start: int, done: int, later: int, most: int) -> None:
    """With ``catch_up`` each slot up to now is run, oldest first, but no more than the newest ``max_catch_up``."""
    made = timetable(every=timedelta(milliseconds=every), start_at=at(start), catch_up=True, max_catch_up=most)
    slot, newest = start + done * every, start + (done + later) * every
    assume(newest < to_ms(datetime(2900, 1, 1, tzinfo=UTC)))
    now = at(newest + every // 2)

    following = made.following(at(slot), now)

    assert len(following.missed) == min(later, most)
    assert following.dropped == later - len(following.missed)
    assert list(following.missed) == [at(newest - n * every) for n in reversed(range(len(following.missed)))]
    assert following.slot == (following.missed[0] if later else at(newest + every))
    if following.missed:
        assert run_all(made, following.slot, now) == list(following.missed)


def test_the_examples_of_catching_up() -> None:
    """Every five seconds from 0, first asked at 12: with ``catch_up`` 0, 5 and 10, without it 0 and then 15."""
    every = timedelta(seconds=5)
    all_of_them = timetable(every=every, start_at=at(0), catch_up=True)
    latest = timetable(every=every, start_at=at(0))
    now = at(12_000)

    assert seconds(*run_all(all_of_them, all_of_them.first(now), now)) == [0, 5, 10]
    assert seconds(*run_all(latest, latest.first(now), now)) == [0]
    assert all_of_them.following(at(10_000), now) == latest.following(at(0), now) == Next(at(15_000))


def test_without_a_start_the_first_slot_is_the_grid() -> None:
    """An interval is due at once, and the slots that follow are counted from there."""
    made = timetable(every=60)

    assert made.first(NOW) == NOW
    assert made.following(NOW, NOW + timedelta(seconds=150)).slot == NOW + timedelta(seconds=180)


@pytest.mark.parametrize("off", [-7, 7])
def test_a_slot_off_the_grid_is_followed_by_the_grid(off: int) -> None:
    """A first run that was put elsewhere, also before ``start_at``, does not move the grid."""
    made = timetable(every=60, start_at=NOW)
    slot = NOW + timedelta(seconds=off)

    assert made.following(slot, slot).slot == NOW + timedelta(seconds=60 if off > 0 else 0)


def test_a_slot_that_is_run_ahead_of_its_time_is_not_run_again() -> None:
    """A caller may run what is due at a later time; the next slot is after the one that was run."""
    made, ahead = timetable(every=60, start_at=NOW), NOW + timedelta(seconds=120)

    assert made.following(ahead, NOW).slot == ahead + timedelta(seconds=60)


def test_a_single_time_is_the_only_slot() -> None:
    """A single time, in the past or not, is the only slot."""
    made = timetable(at=NOW)

    assert (made.kind, made.first(NOW + timedelta(days=1)), made.following(NOW, NOW)) == ("once", NOW, Next(None))


@pytest.mark.parametrize(("catch_up", "late"), [(False, 0), (True, 0), (True, 3600)])
@pytest.mark.parametrize("limit", [{"end_at": NOW + timedelta(seconds=180)}, {"max_runs": 4}])
def test_no_slot_comes_after_the_end(catch_up: bool, late: int, limit: dict[str, Any]) -> None:
    """No slot comes after ``end_at``, which may be one itself, nor after ``max_runs`` runs."""
    made = timetable(every=60, start_at=NOW, catch_up=catch_up, **limit)
    slot, ran = made.first(NOW), []
    while slot is not None:
        ran.append(slot)
        slot = made.following(slot, max(slot, NOW + timedelta(seconds=late)), len(ran)).slot
    if not late or "end_at" in limit:
        assert ran == [NOW + timedelta(seconds=60 * n) for n in range(4)]
    assert len(ran) == 4


def test_a_routine_that_is_over_has_no_first_slot() -> None:
    """A calendar whose first match lies behind ``end_at`` has none; an interval at once, neither."""
    assert timetable(every=60, end_at=NOW).first(NOW + timedelta(seconds=1)) is None
    assert timetable(schedule=crontab(minute=0, app=APP), end_at=NOW).first(NOW) is None


def test_there_is_an_end_of_time() -> None:
    """After the year 9999 there is no slot, and no error either."""
    made = timetable(every=timedelta(days=400_000), start_at=NOW)
    slot, count = made.first(NOW), 0
    while slot is not None:
        slot, count = made.following(slot, NOW).slot, count + 1
    assert count == 8


def daily(zone: str, hour: int = 2, minute: int = 30) -> Timetable:
    return timetable(schedule=crontab(hour=hour, minute=minute, app=APP), timezone=zone)


def slots(made: Timetable, first: datetime, last: datetime) -> list[datetime]:
    """Every slot after one time and up to another, each run on time."""
    found, slot = [], made.first(first)
    while slot is not None and slot <= last:
        found.append(slot)
        slot = made.following(slot, slot).slot
    return found


@pytest.mark.parametrize(
    ("zone", "left_out", "twice"),
    [
        ("Europe/Berlin", datetime(2026, 3, 29, 3, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN)),
        (
            "America/New_York",
            datetime(2026, 3, 8, 3, 30, tzinfo=NEW_YORK),
            datetime(2026, 11, 1, 2, 30, tzinfo=NEW_YORK),
        ),
    ],
)
def test_a_daily_routine_through_both_changes_of_a_year(zone: str, left_out: datetime, twice: datetime) -> None:
    """One slot a day, at its time of day, but for the day on which that time does not exist."""
    tz = ZoneInfo(zone)
    found = [
        each.astimezone(tz)
        for each in slots(daily(zone), datetime(2026, 1, 1, tzinfo=tz), datetime(2027, 1, 1, tzinfo=tz))
    ]

    assert [each.date().toordinal() for each in found] == list(range(found[0].toordinal(), found[0].toordinal() + 365))
    assert {each.isoformat() for each in found if (each.hour, each.minute) != (2, 30)} == {left_out.isoformat()}
    assert twice.isoformat() in {each.isoformat() for each in found}


@pytest.mark.parametrize("tz", [BERLIN, NEW_YORK])
def test_an_interval_through_both_changes_of_a_year(tz: ZoneInfo) -> None:
    """A day is twenty-four hours for an interval, whatever the clock shows; the hour of the day moves with it."""
    made = timetable(every=timedelta(days=1), start_at=datetime(2026, 1, 1, 12, tzinfo=tz))
    found = slots(made, datetime(2026, 1, 1, tzinfo=tz), datetime(2027, 1, 1, tzinfo=tz))

    assert {later - earlier for earlier, later in zip(found, found[1:], strict=False)} == {timedelta(days=1)}
    assert [each.astimezone(tz).hour for each in (found[0], found[180], found[-1])] == [12, 13, 12]


@given(
    st.integers(to_ms(datetime(2026, 1, 1, tzinfo=UTC)), to_ms(datetime(2027, 1, 1, tzinfo=UTC))),
    st.integers(0, 40 * 86_400_000),
    st.integers(1, 30),
)
@example(to_ms(datetime(2026, 10, 24, tzinfo=UTC)), 2 * 86_400_000, 5)
def test_missed_matches_of_a_calendar_are_the_newest_ones(slot: int, later: int, most: int) -> None:
    """Catching up a calendar has the same slots, whether they are listed from the oldest or searched from now."""
    every_six_hours = crontab(hour="*/6", minute=15, app=APP)
    made = timetable(schedule=every_six_hours, timezone="Europe/Berlin", catch_up=True, max_catch_up=most)
    now = at(slot + later)
    everything = slots(timetable(schedule=every_six_hours, timezone="Europe/Berlin"), at(slot), now)

    following = made.following(at(slot), now)

    assert list(following.missed) == everything[-most:]
    assert following.dropped == len(everything) - len(following.missed)


def test_counting_what_is_given_up_has_an_end() -> None:
    """A crontab of every minute that was forgotten for a year is counted by days."""
    made = timetable(schedule=crontab(app=APP), catch_up=True, max_catch_up=3)

    following = made.following(NOW - timedelta(days=365), NOW)

    assert seconds(*following.missed) == seconds(*(NOW - timedelta(minutes=n) for n in (2, 1, 0)))
    assert following.dropped == 365 * 24 * 60 - 3


def test_a_calendar_counts_from_its_start() -> None:
    """A match at ``start_at`` is one; earlier ones are none; what is past is caught up only where that is asked for."""
    hourly = crontab(minute=30, app=APP)
    ahead, past = NOW + timedelta(hours=5), NOW - timedelta(hours=5)

    assert timetable(schedule=hourly).first(NOW) == NOW + timedelta(hours=1)
    assert timetable(schedule=hourly, start_at=ahead).first(NOW) == ahead
    assert timetable(schedule=hourly, start_at=ahead).following(NOW, NOW).slot == ahead
    assert timetable(schedule=hourly, start_at=past).first(NOW) == NOW + timedelta(hours=1)
    assert timetable(schedule=hourly, start_at=past, catch_up=True).first(NOW) == past


@given(TIME, st.integers(1, 59), st.text(min_size=1, max_size=10))
def test_jitter_moves_the_run_and_not_the_slot(slot: int, jitter: int, salt: str) -> None:
    """A run is up to ``jitter`` later than its slot, always by the same for one slot of one routine."""
    made = timetable(every=60, jitter=jitter)

    due = made.due(at(slot), salt)

    assert at(slot) <= due < at(slot) + timedelta(seconds=jitter)
    assert due == made.due(at(slot), salt)


def test_jitter_spreads_routines_of_one_time() -> None:
    """A thousand routines of one slot do not start at one moment."""
    made = timetable(at=NOW, jitter=600)

    found = sorted((made.due(NOW, f"routine-{n}") - NOW).total_seconds() for n in range(1000))

    assert found[0] < 10
    assert found[-1] > 590
    assert all(later - earlier < 20 for earlier, later in zip(found, found[1:], strict=False))


@pytest.mark.parametrize(
    ("made", "reached", "pulled"),
    [
        # An hour ahead: the grid stays, and the first of its slots after now is next.
        (timetable(every=600, start_at=NOW - timedelta(hours=5)), NOW + timedelta(hours=1, minutes=10), NOW + timedelta(minutes=10)),
        (timetable(every=600), NOW + timedelta(hours=1, seconds=7), NOW + timedelta(seconds=7)),
        (timetable(schedule=crontab(minute="*/10", app=APP)), NOW + timedelta(hours=1, minutes=10), NOW + timedelta(minutes=10)),
        # Two minutes ahead: the slot in between has been run.
        (timetable(every=3600, start_at=NOW + timedelta(minutes=1)), NOW + timedelta(minutes=61), NOW + timedelta(minutes=61)),
        (timetable(schedule=crontab(minute=31, app=APP)), NOW + timedelta(minutes=61), NOW + timedelta(minutes=61)),
        # It has not begun yet, or runs once.
        (timetable(every=60, start_at=NOW + timedelta(days=1)), NOW + timedelta(days=1), NOW + timedelta(days=1)),
        (timetable(at=NOW + timedelta(days=1)), NOW + timedelta(days=1), NOW + timedelta(days=1)),
    ],
)  # fmt: skip
def test_where_the_clock_has_stepped_back_the_next_slot_is_near(
    made: Timetable, reached: datetime, pulled: datetime
) -> None:
    """No slot lies more than one slot behind the next one after now."""
    assert made.pulled_back(reached, NOW) == pulled
