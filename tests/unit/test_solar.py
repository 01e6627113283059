"""A solar schedule as that of a routine: stored by its event and place, and asked for its next match."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import ephem
import pytest
from celery.schedules import solar

from celery_perpetual import InvalidRoutine
from celery_perpetual.routines.slots import Timetable
from celery_perpetual.routines.timetables import timetable

NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


def sunset_after(time: datetime) -> datetime:
    """Ask the library that Celery asks."""
    place = ephem.Observer()
    place.lat, place.lon = "52.5", "13.4"
    place.elevation, place.pressure, place.horizon = 0, 0, "-0:34"
    place.date = time
    found: datetime = place.next_setting(ephem.Sun()).datetime()
    return found.replace(tzinfo=timezone.utc)


def test_a_sunset_is_stored_and_read_again() -> None:
    """The stored form has what the schedule is made of, and gives the same slots: that of each day, once."""
    made = timetable(schedule=solar("sunset", 52.5, 13.4), catch_up=True)
    read = Timetable.from_json(made.to_json())

    assert made.to_json() == '{"calendar":{"solar":["sunset",52.5,13.4]},"catch_up":true}'
    assert read == made
    assert read.to_dict()["schedule"] == "<solar: sunset at latitude 52.5, longitude: 13.4>"
    first = read.first(NOON)
    assert first is not None
    assert abs(first - sunset_after(NOON)) < timedelta(seconds=2)
    following = read.following(first, first + timedelta(days=3, hours=1))
    assert len(following.missed) == 3
    steps = [later - earlier for earlier, later in zip([first, *following.missed], following.missed, strict=False)]
    assert all(abs(step - timedelta(days=1)) < timedelta(minutes=3) for step in steps)


def test_where_the_sun_does_not_set() -> None:
    """At the pole the next sunset is in September."""
    found = timetable(schedule=solar("sunset", 89, 13.4)).first(NOON)

    assert found is not None
    assert (found.year, found.month) == (2026, 9)


def test_a_solar_schedule_has_no_zone() -> None:
    with pytest.raises(InvalidRoutine, match="timezone does not go with a solar schedule, got 'UTC'") as refused:
        timetable(schedule=solar("sunset", 52.5, 13.4), timezone="UTC")
    assert refused.value.field == "timezone"
