"""Timetables of routines: stored as short JSON and read again, refused with field and value, changed by a patch."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from celery import Celery
from celery.schedules import BaseSchedule, crontab, schedule

from celery_perpetual import InvalidRoutine, PerpetualError
from celery_perpetual.routines.slots import MOST_COUNTED, Timetable
from celery_perpetual.routines.timetables import FIELDS, changed, fields_of, timetable

UTC = timezone.utc


APP = Celery("app", set_as_current=False)


BERLIN = ZoneInfo("Europe/Berlin")


NEW_YORK = ZoneInfo("America/New_York")


NOW = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)


def daily(zone: str, hour: int = 2, minute: int = 30) -> Timetable:
    return timetable(schedule=crontab(hour=hour, minute=minute, app=APP), timezone=zone)


class EveryThirdSecond(BaseSchedule):
    """A schedule of one's own, which pickles by its fields."""

    def __init__(self, step: int = 3, **given: Any) -> None:
        self.step = step
        super().__init__(**given)

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        since = last_run_at.timestamp()
        return timedelta(seconds=(since // self.step + 1) * self.step - self.now().timestamp())


class NoonOnly(crontab):
    """A crontab that was changed, and pickles as Celery's does."""

    def remaining_estimate(self, last_run_at: datetime, **given: Any) -> timedelta:
        noon = last_run_at.replace(hour=12, minute=0, second=0, microsecond=0)
        return noon + timedelta(days=noon <= last_run_at) - self.now()


class Broken(BaseSchedule):
    """Its code raises."""

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:
        raise RuntimeError("no idea")


EXAMPLES: list[dict[str, Any]] = [
    {"at": NOW},
    {"every": timedelta(hours=6)},
    {"every": 90.5, "start_at": NOW, "end_at": NOW + timedelta(days=1), "max_runs": 5, "jitter": 3},
    {"every": schedule(30), "catch_up": True},
    {"every": 30, "catch_up": True, "max_catch_up": 7},
    {"schedule": crontab(minute="*/5", hour={3, 1}, day_of_week="mon-fri", day_of_month=[1, 15]), "timezone": "Europe/Berlin"},
    {"schedule": crontab(0, 9), "start_at": NOW, "catch_up": True},
    {"schedule": EveryThirdSecond(step=5)},
    {"schedule": NoonOnly(), "timezone": "Asia/Tokyo"},
]  # fmt: skip


@pytest.mark.parametrize("given_as", EXAMPLES)
def test_a_timetable_survives_the_store(given_as: dict[str, Any]) -> None:
    """A stored timetable is read again as the same one, with the same slots and the same fields."""
    made = timetable(**given_as)
    text = made.to_json()

    again = Timetable.from_json(text.encode())

    assert again == made
    assert again.to_json() == text
    assert timetable(**fields_of(again)) == made
    assert fields_of(again).keys() <= set(FIELDS)
    assert again.first(NOW) == made.first(NOW)


@pytest.mark.parametrize(
    ("given_as", "text", "shown"),
    [
        (
            {"every": timedelta(hours=6)},
            '{"every":21600000}',
            {"kind": "interval", "every": 21600.0},
        ),
        (
            {"at": NOW, "jitter": 2},
            '{"at":1777638600000,"jitter":2000}',
            {"kind": "once", "at": "2026-05-01T12:30:00.000Z", "jitter": 2.0},
        ),
        (
            {"schedule": crontab(hour=9, minute=0), "timezone": BERLIN, "catch_up": True},
            '{"calendar":{"cron":"0 9 * * *","zone":"Europe/Berlin"},"catch_up":true}',
            {
                "kind": "calendar",
                "schedule": "crontab 0 9 * * * (Europe/Berlin)",
                "catch_up": True,
                "max_catch_up": 100,
            },
        ),
    ],
)
def test_the_stored_form_is_short_and_the_shown_one_is_clear(
    given_as: dict[str, Any], text: str, shown: dict[str, Any]
) -> None:
    """The store keeps only what is not as usual; programs and people see seconds and times."""
    assert timetable(**given_as).to_json() == text
    assert timetable(**given_as).to_dict() == shown


def test_the_zone_is_part_of_what_is_stored() -> None:
    """A crontab counts in its own zone, or that of the app where it is created, wherever it is read."""
    app = Celery("app", set_as_current=False)
    app.conf.timezone = "Asia/Tokyo"
    own = crontab(hour=9, minute=0, nowfun=lambda: datetime.now(BERLIN), app=app)

    of_the_app = timetable(schedule=crontab(hour=9, minute=0, app=app), app=app)
    of_its_own = timetable(schedule=own, app=app)
    given_twice = timetable(schedule=own, timezone="America/New_York", app=app)

    assert [to_zone(each) for each in (of_the_app, of_its_own, given_twice)] == [
        "Asia/Tokyo",
        "Europe/Berlin",
        "America/New_York",
    ]
    assert Timetable.from_json(of_the_app.to_json()).first(NOW) == datetime(2026, 5, 2, 0, 0, tzinfo=UTC)


def to_zone(made: Timetable) -> str | None:
    assert made.calendar is not None
    return made.calendar.zone


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({}, "at", "must have one of the fields at, every and schedule, got none of them"),
    ({"at": NOW, "every": 5}, "every", "must have one of the fields at, every and schedule, got at=.* and every=5"),
    ({"at": NOW.replace(tzinfo=None)}, "at", "at must be a datetime with a time zone, got datetime"),
    ({"at": "tomorrow"}, "at", "at must be a datetime with a time zone, got 'tomorrow'"),
    ({"at": -1}, "at", "at must be a datetime with a time zone, got -1"),
    ({"at": datetime(1969, 1, 1, tzinfo=UTC)}, "at", "at must be a time from 1970 to 9999, got"),
    ({"at": datetime(9999, 12, 31, 23, tzinfo=UTC)}, "at", "at must be a time from 1970 to 9999, got"),
    ({"every": 0}, "every", "every must be at least 0.01 seconds, got 0"),
    ({"every": -5}, "every", "every must be at least 0.01 seconds, got -5"),
    ({"every": "5"}, "every", "every must be seconds, a timedelta or a Celery schedule, got '5'"),
    ({"every": True}, "every", "every must be seconds, a timedelta or a Celery schedule, got True"),
    ({"every": float("nan")}, "every", "every must be seconds, a timedelta or a Celery schedule, got nan"),
    ({"every": timedelta.max}, "every", "every must be shorter than 8000 years"),
    ({"every": crontab()}, "every", "every must be seconds or a timedelta; a calendar is given as schedule=, got <crontab"),
    ({"schedule": schedule(5)}, "schedule", "schedule must be a Celery schedule such as .*; an interval is given as every=, got <freq"),
    ({"schedule": "0 9 * * *"}, "schedule", "schedule must be a Celery schedule such as .*, got '0 9 "),
    ({"schedule": Broken(nowfun=lambda: NOW)}, "schedule", "schedule must have a next match, got .*: RuntimeError: no idea"),
    ({"schedule": EveryThirdSecond(step={1})}, "schedule", "schedule must be a crontab, a solar schedule, or one of a class"),
    ({"schedule": crontab(), "timezone": "Europe/Berlinn"}, "timezone", "timezone must be the name of a time zone such as 'Europe/Berlin', got 'Europe/Berlinn'"),
    ({"schedule": crontab(), "timezone": timezone(timedelta(hours=1))}, "timezone", "timezone must be the name of a time zone"),
    ({"every": 5, "timezone": "UTC"}, "timezone", "timezone must be left out together with every=, got 'UTC'"),
    ({"at": NOW, "start_at": NOW}, "start_at", "start_at must be left out together with at=, got"),
    ({"every": 5, "start_at": "x"}, "start_at", "start_at must be a datetime with a time zone, got 'x'"),
    ({"every": 5, "start_at": NOW, "end_at": NOW - timedelta(1)}, "end_at", "end_at must be not before start_at"),
    ({"every": 5, "max_runs": 0}, "max_runs", "max_runs must be a whole number of at least 1, got 0"),
    ({"every": 5, "max_runs": 1.5}, "max_runs", "max_runs must be a whole number of at least 1, got 1.5"),
    ({"every": 5, "jitter": 5}, "jitter", r"jitter must be shorter than every \(5\), got 5"),
    ({"every": 5, "jitter": -1}, "jitter", "jitter must be at least 0 seconds, got -1"),
    ({"every": 5, "catch_up": 1}, "catch_up", "catch_up must be True or False, got 1"),
    ({"every": 5, "max_catch_up": 5}, "max_catch_up", "max_catch_up must be given together with catch_up=True, got 5"),
    ({"every": 5, "catch_up": True, "max_catch_up": 0}, "max_catch_up", "max_catch_up must be a whole number of at least 1, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("given_as", "field", "says"), REFUSED)
def test_what_cannot_be_is_refused_with_field_and_value(given_as: dict[str, Any], field: str, says: str) -> None:
    """Every impossible field is refused before anything is stored; the error names it, its value and what is allowed."""
    with pytest.raises(InvalidRoutine, match=f"^routine (field )?{says}") as refused:
        timetable(**given_as).first(NOW)

    assert isinstance(refused.value, PerpetualError)
    assert refused.value.field == field
    if given_as:
        seen = refused.value.value
        assert seen is given_as[field] or str(seen) in str(refused.value)


def test_a_change_keeps_what_still_goes() -> None:
    """A patch replaces what it names; a new kind takes along only what goes with it, and a new grid has a new start."""
    made = timetable(every=60, start_at=NOW, catch_up=True, max_catch_up=5, max_runs=9)

    assert changed(made, {"max_runs": None}) == timetable(every=60, start_at=NOW, catch_up=True, max_catch_up=5)
    assert changed(made, {"catch_up": False}) == timetable(every=60, start_at=NOW, max_runs=9)
    assert changed(made, {"every": 30}) == timetable(every=30, catch_up=True, max_catch_up=5, max_runs=9)
    assert changed(made, {"every": 1, "start_at": NOW + timedelta(0, 1)}).first(NOW) == NOW + timedelta(0, 1)
    assert changed(made, {"at": NOW}) == timetable(at=NOW)
    with pytest.raises(InvalidRoutine, match="must have one of the fields"):
        changed(made, {"every": None})
    with pytest.raises(InvalidRoutine, match="max_catch_up must be given together"):
        changed(timetable(every=60), {"max_catch_up": 3})


def test_a_new_crontab_stays_in_the_zone_of_the_routine() -> None:
    """Changing the hour does not change the zone, unless the new schedule brings its own."""
    made = daily("Europe/Berlin")
    tokyo = crontab(hour=9, nowfun=lambda: datetime.now(ZoneInfo("Asia/Tokyo")), app=APP)

    assert to_zone(changed(made, {"schedule": crontab(hour=9, app=APP)}, APP)) == "Europe/Berlin"
    assert to_zone(changed(made, {"schedule": tokyo}, APP)) == "Asia/Tokyo"
    assert to_zone(changed(made, {"timezone": "America/New_York"}, APP)) == "America/New_York"


def test_counting_the_slots_of_a_schedule_of_ones_own_has_an_end() -> None:
    """It can only be asked for one after the other."""
    made = timetable(schedule=EveryThirdSecond(step=3), catch_up=True)

    assert made.following(NOW - timedelta(days=2), NOW).dropped == MOST_COUNTED
