"""The fields with which a user says when a routine is due: checked, and made into a timetable."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from celery.schedules import BaseSchedule

from celery_perpetual.errors import ContractError, InvalidRoutine, shown_value
from celery_perpetual.routines.calendars import Calendar
from celery_perpetual.routines.checks import LAST, a_count, a_time, a_truth, refusal
from celery_perpetual.routines.slots import MAX_CATCH_UP, Timetable
from celery_perpetual.settings import seconds
from celery_perpetual.tasks.cadence import Cadence, own_zone
from celery_perpetual.times import ms, to_datetime

#: The fields that say it; exactly one of the first three is given.
FIELDS = (
    "at", "every", "schedule", "timezone", "start_at", "end_at", "max_runs", "jitter", "catch_up", "max_catch_up",
)  # fmt: skip
KINDS = FIELDS[:3]
#: A change of one of these makes the next slot be computed anew.
NEW_SLOTS = frozenset(FIELDS[:5])
#: The most that ``max_catch_up`` may be: each end of a run goes through so many slots.
MOST_CATCH_UP = 100_000
#: The fields that each kind may be given besides the jitter.
GOES_WITH = {
    "at": frozenset({"jitter"}),
    "every": frozenset({"start_at", "end_at", "max_runs", "jitter", "catch_up", "max_catch_up"}),
    "schedule": frozenset({"timezone", "start_at", "end_at", "max_runs", "jitter", "catch_up", "max_catch_up"}),
}


def timetable(
    *,
    at: datetime | None = None,
    every: Any = None,
    schedule: Any = None,
    timezone: Any = None,
    start_at: datetime | None = None,
    end_at: datetime | None = None,
    max_runs: int | None = None,
    jitter: float | timedelta | None = None,
    catch_up: bool | None = None,
    max_catch_up: int | None = None,
    app: Any = None,
) -> Timetable:
    """Check the fields and make a timetable of them; None stands for a field that is not given.

    Args:
        at: the one time of a routine that runs once.
        every: seconds, a ``timedelta``, or Celery's interval schedule.
        schedule: any other Celery schedule.
        timezone: the zone, or its name, in which ``schedule`` counts; else its own, or that of the app.
        start_at: the first slot of an interval; matches of a calendar count from then on.
        end_at: no slot comes after it.
        max_runs: how many slots are run.
        jitter: each slot is run up to so many seconds later, so that the routines of one time are spread.
        catch_up: run each slot that was missed, and not only the next one.
        max_catch_up: the most missed slots that are run, the newest; 100 where it is not given.
        app: the app whose ``timezone`` counts.

    Raises:
        InvalidRoutine: a field has an impossible value, or does not go with another.
    """
    values = (at, every, schedule, timezone, start_at, end_at, max_runs, jitter, catch_up, max_catch_up)
    kind = _kind({name: value for name, value in zip(FIELDS, values, strict=True) if value is not None})
    made = Timetable(
        at=None if at is None else a_time("at", at),
        every=None if every is None else _known_interval(every) if type(every) in _HASHED else _interval(every),
        calendar=None if schedule is None else Calendar.of(schedule, timezone, app),
        start=None if start_at is None else a_time("start_at", start_at),
        end=None if end_at is None else a_time("end_at", end_at),
        max_runs=None if max_runs is None else a_count("max_runs", max_runs),
        jitter=0 if jitter is None else _jitter(jitter),
        catch_up=False if catch_up is None else a_truth("catch_up", catch_up),
        max_catch_up=MAX_CATCH_UP
        if max_catch_up is None
        else a_count("max_catch_up", max_catch_up, most=MOST_CATCH_UP),
    )
    if max_catch_up is not None and not made.catch_up:
        raise refusal("max_catch_up", max_catch_up, "given together with catch_up=True")
    if kind == "every" and made.jitter >= (made.every or 0):
        raise refusal("jitter", jitter, f"shorter than every ({shown_value(every)})")
    if made.start is not None and made.end is not None and made.end < made.start:
        raise refusal("end_at", end_at, f"not before start_at ({start_at!r})")
    return made


def fields_of(made: Timetable) -> dict[str, Any]:
    """The fields that make this timetable."""
    calendar = made.calendar
    shown: dict[str, Any] = {
        "at": None if made.at is None else to_datetime(made.at),
        "every": None if made.every is None else timedelta(milliseconds=made.every),
        "schedule": None if calendar is None else calendar.schedule,
        "timezone": None if calendar is None else calendar.zone,
        "start_at": None if made.start is None else to_datetime(made.start),
        "end_at": None if made.end is None else to_datetime(made.end),
        "max_runs": made.max_runs,
        "jitter": timedelta(milliseconds=made.jitter) if made.jitter else None,
        "catch_up": made.catch_up or None,
        "max_catch_up": made.max_catch_up if made.catch_up else None,
    }
    return {name: value for name, value in shown.items() if value is not None}


def changed(made: Timetable, patch: Mapping[str, Any], app: Any = None) -> Timetable:
    """The timetable after an update: a field of the patch that is None is taken away, and what is not named stays.

    A new ``at``, ``every`` or ``schedule`` takes the place of the old one; with it goes the old ``start_at``, which was
    the grid of the old slots, and every field that does not go with the new kind.

    Raises:
        InvalidRoutine: the patch, or what it makes of the timetable, is impossible.
    """
    kept = fields_of(made)
    kinds = [name for name in KINDS if patch.get(name) is not None]
    if kinds:
        kept = {name: value for name, value in kept.items() if name in GOES_WITH[kinds[0]] and name != "start_at"}
        schedule = patch.get("schedule")
        if isinstance(schedule, BaseSchedule) and own_zone(schedule, app) is not None:
            kept.pop("timezone", None)
    if "catch_up" in patch and not patch["catch_up"]:
        kept.pop("max_catch_up", None)
    return timetable(**{**kept, **patch}, app=app)


def _kind(given: Mapping[str, Any]) -> str:
    kinds = [name for name in KINDS if name in given]
    if len(kinds) != 1:
        seen = " and ".join(f"{name}={shown_value(given[name])}" for name in kinds) or "none of them"
        message = f"routine must have one of the fields at, every and schedule, got {seen}"
        raise InvalidRoutine(message, kinds[-1] if kinds else "at", given[kinds[-1]] if kinds else None)
    for name, value in given.items():
        if name != kinds[0] and name not in GOES_WITH[kinds[0]]:
            raise refusal(name, value, f"left out together with {kinds[0]}=")
    return kinds[0]


def _interval(seen: Any) -> int:
    try:
        found = Cadence(seen, what="routine field every").every_ms
    except ContractError as error:
        raise InvalidRoutine(str(error), "every", seen) from None
    if found is None:
        raise refusal("every", seen, "seconds or a timedelta; a calendar is given as schedule=")
    if found > LAST:
        raise refusal("every", seen, "shorter than 8000 years")
    return found


#: Many routines have the same interval, so it is checked once.
_known_interval = lru_cache(256, typed=True)(_interval)
_HASHED = (timedelta, int, float)


def _jitter(seen: Any) -> int:
    try:
        return ms(seconds("routine field jitter", seen, error=ContractError))
    except ContractError as error:
        raise InvalidRoutine(str(error), "jitter", seen) from None
