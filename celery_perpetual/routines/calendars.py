"""Calendars as a routine stores them: a Celery schedule and its time zone, as JSON and back."""

from __future__ import annotations

import copyreg
import json
from dataclasses import dataclass
from datetime import timezone, tzinfo
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from celery import current_app
from celery.schedules import BaseSchedule, crontab, schedule, solar
from kombu.utils.imports import symbol_by_name

from celery_perpetual.errors import InvalidRoutine, described, shown_value
from celery_perpetual.tasks.cadence import Cadence, is_plain, zone_of

_STORABLE = "a crontab, a solar schedule, or one of a class of a module whose fields are JSON"
#: The attributes that a schedule keeps of its app, and not of itself.
_OF_THE_APP = {"nowfun", "app", "_app", "tz", "utc_enabled"}


@dataclass(frozen=True, slots=True)
class Calendar:
    """A Celery schedule that is not an interval, and the zone in which it counts. Equal ones have equal texts."""

    text: str
    """The JSON of it."""

    @classmethod
    def of(cls, seen: Any, zone: Any = None, app: Any = None) -> Calendar:
        """Read what a user gave as ``schedule=`` and ``timezone=``.

        Args:
            seen: the schedule.
            zone: the time zone or its name. None: the schedule's own, or else that of the app.
            app: the app whose ``timezone`` counts; the current one where it is None.

        Raises:
            InvalidRoutine: it is not a schedule, or cannot be stored, or the zone has no name.
        """
        if type(seen) is schedule or not isinstance(seen, BaseSchedule):
            allowed = "a Celery schedule such as crontab(hour=8, minute=0); an interval is given as every="
            raise InvalidRoutine(f"routine field schedule must be {allowed}, got {shown_value(seen)}", "schedule", seen)
        facts = _facts(seen)
        if "solar" not in facts:
            facts["zone"] = _zone_name(zone if zone is not None else zone_of(seen, app) or current_app.timezone)
        elif zone is not None:
            message = f"routine field timezone does not go with a solar schedule, got {shown_value(zone)}"
            raise InvalidRoutine(message, "timezone", zone)
        text = json.dumps(facts, separators=(",", ":"), sort_keys=True)
        _read(text)  # stored is only what can be read again
        return cls(text)

    @property
    def schedule(self) -> BaseSchedule:
        """The Celery schedule."""
        found = _read(self.text).calendar
        assert found is not None
        return found

    @property
    def zone(self) -> str | None:
        """The name of its time zone; None for a solar schedule, which needs none."""
        found: str | None = json.loads(self.text).get("zone")
        return found

    @property
    def runs_user_code(self) -> bool:
        """Whether asking it runs code of the user's, which may raise or hang."""
        return _read(self.text).runs_user_code

    def match_after(self, at: int) -> int:
        """The first match after a time; milliseconds.

        Raises:
            InvalidRoutine: the schedule has no match, or its code raised.
        """
        cadence = _read(self.text)
        try:
            return cadence.match_after(at)
        except Exception as error:
            message = f"routine field schedule must have a next match, got {self}: {described(error)}"
            raise InvalidRoutine(message, "schedule", self) from error

    def matches_between(self, after: int, until: int) -> int | None:
        """How many matches of a crontab there are after a time and up to another; None for any other calendar."""
        return _read(self.text).matches_between(after, until)

    def __str__(self) -> str:
        facts = json.loads(self.text)
        if "class" in facts:  # which this process may not have
            return f"{facts['class']} ({facts['zone']})"
        name = f"crontab {facts['cron']}" if "cron" in facts else repr(self.schedule)
        return f"{name} ({facts['zone']})" if "zone" in facts else name


def _facts(seen: BaseSchedule) -> dict[str, Any]:
    if is_plain(seen):
        # The fields as they were written, in the order in which cron has them.
        names = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
        return {"cron": " ".join(_field(getattr(seen, f"_orig_{name}")) for name in names)}
    if type(seen) is solar:
        return {"solar": [seen.event, seen.lat, seen.lon]}
    try:
        facts: dict[str, Any] = json.loads(json.dumps(_parts(seen)))
        return facts
    except Exception as error:
        message = f"routine field schedule must be {_STORABLE}, got {shown_value(seen)}: {described(error)}"
        raise InvalidRoutine(message, "schedule", seen) from None


def _parts(seen: BaseSchedule) -> dict[str, Any]:
    """Class and arguments of a user's own schedule, as it is pickled; ``args`` is None if it is made without a call."""
    reduced: Any = seen.__reduce_ex__(2)
    made_by, args, *state = reduced
    if made_by is copyreg.__newobj__:  # type: ignore[attr-defined]  # missing in the stubs
        made_by, args = args[0], None
    kept = {name: value for name, value in ((state and state[0]) or {}).items() if name not in _OF_THE_APP}
    return {"class": f"{made_by.__module__}:{made_by.__qualname__}", "args": args, "state": kept}


def _made(facts: dict[str, Any]) -> BaseSchedule:
    if "cron" in facts:
        minute, hour, day_of_month, month_of_year, day_of_week = facts["cron"].split(" ")
        return crontab(minute, hour, day_of_week, day_of_month, month_of_year)
    if "solar" in facts:
        return solar(*facts["solar"])
    made_by = symbol_by_name(facts["class"])
    if not (isinstance(made_by, type) and issubclass(made_by, BaseSchedule)):
        raise TypeError(f"{facts['class']} is not a class of celery.schedules.BaseSchedule")
    if facts["args"] is None:
        found: BaseSchedule = object.__new__(made_by)
        BaseSchedule.__init__(found)
    else:
        found = made_by(*facts["args"])
    found.__dict__.update(facts["state"])
    return found


def _field(seen: Any) -> str:
    """One field of a crontab as cron writes it."""
    if isinstance(seen, str | int):
        return str(seen).replace(" ", "")
    return ",".join(str(each) for each in sorted(seen))


def _zone_name(seen: Any) -> str:
    name = "UTC" if seen is timezone.utc else getattr(seen, "key", None) or getattr(seen, "zone", None) or seen
    if not isinstance(name, str):
        raise _unknown_zone(seen)
    _zone(name)
    return name


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise _unknown_zone(name) from None


def _unknown_zone(seen: Any) -> InvalidRoutine:
    allowed = "the name of a time zone such as 'Europe/Berlin'"
    return InvalidRoutine(f"routine field timezone must be {allowed}, got {shown_value(seen)}", "timezone", seen)


@lru_cache(1024)
def _read(text: str) -> Cadence:
    """The cadence of a stored calendar.

    Raises:
        InvalidRoutine: its zone or its class is not known here.
    """
    facts = json.loads(text)
    zone = _zone(facts.get("zone", "UTC"))
    try:
        return Cadence(_made(facts), zone=zone, what="schedule")
    except Exception as error:
        message = f"routine field schedule must be {_STORABLE}, got {text}: {described(error)}"
        raise InvalidRoutine(message, "schedule", text) from error
