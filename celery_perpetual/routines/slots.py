"""Timetables: the slots of a routine. Pure: no store, no clock of its own.

An interval's slots are ``start_at + k * every`` in elapsed seconds, however late a run is and however often it is
tried again; without ``start_at`` the first slot is where the grid begins. A calendar's slots are its matches.
Times are whole milliseconds; what is finer is cut off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from hashlib import blake2b
from itertools import islice
from typing import Any, NamedTuple

from celery_perpetual.routines.calendars import Calendar
from celery_perpetual.routines.checks import LAST
from celery_perpetual.routines.texts import text_of
from celery_perpetual.tasks.cadence import SHORTEST_CALENDAR_MS
from celery_perpetual.times import format_time, to_datetime, to_ms_floor

#: How many missed slots are run where a routine does not say it.
MAX_CATCH_UP = 100
#: Missed slots of a calendar that is no crontab are counted so far.
MOST_COUNTED = 10_000

_HOUR = 3_600_000
_dumps = json.JSONEncoder(separators=(",", ":"), sort_keys=True).encode


class Next(NamedTuple):
    """The slots after a slot."""

    slot: datetime | None
    """The slot that is next: the first of ``missed``, else the first one after now; None: there is none."""
    missed: tuple[datetime, ...] = ()
    """Slots up to now that are still to be run, one by one, oldest first; empty without ``catch_up``."""
    dropped: int = 0
    """How many more slots were missed and are given up, the oldest; of a calendar that is no crontab up to
    10 000 are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timetable:
    """When a routine is due; made and checked by :func:`celery_perpetual.routines.timetables.timetable`.

    Times and durations are milliseconds. Two that are equal have equal JSON.
    """

    at: int | None = None
    every: int | None = None
    calendar: Calendar | None = None
    start: int | None = None
    """The first slot of an interval, or the time from which on matches of a calendar count."""
    end: int | None = None
    """No slot comes after it."""
    max_runs: int | None = None
    jitter: int = 0
    catch_up: bool = False
    max_catch_up: int = MAX_CATCH_UP
    _json: str | None = field(default=None, init=False, repr=False, compare=False)
    """Its JSON, once it was asked for: thousands of routines share a timetable."""

    @property
    def kind(self) -> str:
        """``once``, ``interval`` or ``calendar``."""
        return "once" if self.at is not None else "interval" if self.every else "calendar"

    @property
    def runs_user_code(self) -> bool:
        """Whether asking for slots runs code of the user's, which may raise or hang."""
        return self.calendar is not None and self.calendar.runs_user_code

    def first(self, now: datetime) -> datetime | None:
        """The first slot of a routine that is created, or changed, now; it may lie in the past, then it is due at once.

        Returns:
            ``at``; ``start_at`` of an interval, or now without it; the first match of a calendar after now, and not
            before ``start_at``, or with ``catch_up`` the first one since ``start_at``. None: ``end_at`` is before it.

        Raises:
            InvalidRoutine: a calendar has no match, or its code raised.
        """
        slot = self.first_ms(to_ms_floor(now))
        return None if slot is None else to_datetime(slot)

    def first_ms(self, now: int) -> int | None:
        """The same, from milliseconds to milliseconds."""
        if self.at is not None:
            return self.at
        if self.calendar is None:
            slot = now if self.start is None else self.start
        elif self.start is None:
            slot = self.calendar.match_after(now)
        else:
            slot = self.calendar.match_after(self.start - 1 if self.catch_up else max(now, self.start - 1))
        return slot if self._is_within(slot) else None

    def following(self, slot: datetime, now: datetime, runs: int = 0) -> Next:
        """The slots after one that has been run, or was given up.

        Args:
            slot: the slot; one that is off the grid, because ``next_run_at`` was given, is followed by the grid again.
            now: the store's time.
            runs: how many slots have been run, this one included; after ``max_runs`` there is none.

        Raises:
            InvalidRoutine: a calendar has no match, or its code raised.
        """
        left = None if self.max_runs is None else self.max_runs - runs
        if self.at is not None or (left is not None and left <= 0):
            return Next(None)
        done, at = to_ms_floor(slot), to_ms_floor(now)
        kept, dropped = self._missed(done, at) if self.catch_up and at > done else ([], 0)
        missed = tuple(found for each in kept[:left] if (found := self._within(each)))
        if missed:
            return Next(missed[0], missed, dropped)
        return Next(self.after(slot, now), (), dropped)

    def after(self, slot: datetime, now: datetime) -> datetime | None:
        """The first slot after another one that lies after now, whatever was missed; None if there is none.

        Raises:
            InvalidRoutine: a calendar has no match, or its code raised.
        """
        if self.at is not None:
            return None
        done = to_ms_floor(slot)
        return self._within(self._after(done, max(done, to_ms_floor(now))))

    def pulled_back(self, slot: datetime, now: datetime) -> datetime:
        """The slot that is next after the clock has stepped back: the first one after now.

        A slot that is next or next but one stays: it was reached before the step, so the one before it has been run.

        Raises:
            InvalidRoutine: a calendar has no match, or its code raised.
        """
        if self.at is not None:
            return slot
        at, later = to_ms_floor(now), to_ms_floor(slot)
        earliest = at if self.start is None else max(at, self.start - 1)
        if self.calendar is not None:
            first = self.calendar.match_after(earliest)
            second = self.calendar.match_after(first)
        else:
            assert self.every is not None
            first = later - max(0, (later - earliest - 1) // self.every) * self.every
            second = first + self.every
        return to_datetime(first) if later > second else slot

    def due(self, slot: datetime, salt: str) -> datetime:
        """When a slot is to be run: with ``jitter`` a little later, the same in every process.

        Args:
            slot: the slot.
            salt: the id of the routine, so that those of one time spread.
        """
        if not self.jitter:
            return slot
        share = int.from_bytes(blake2b(f"{salt} {to_ms_floor(slot)}".encode(), digest_size=4).digest(), "big") / 2**32
        return to_datetime(min(LAST, to_ms_floor(slot) + int(share * self.jitter)))

    def to_json(self) -> str:
        """The form that the store keeps: the fields that are not as usual."""
        if self._json is None:
            texts = []
            for name, usual in _BY_NAME:
                value = getattr(self, name)
                if value != usual:
                    texts.append(f'"{name}":{value.text if isinstance(value, Calendar) else text_of(value)}')
            object.__setattr__(self, "_json", f"{{{','.join(texts)}}}")
        return self._json or ""

    @classmethod
    def from_json(cls, text: str | bytes) -> Timetable:
        """Read what :meth:`to_json` wrote."""
        facts = json.loads(text)
        if calendar := facts.get("calendar"):
            facts["calendar"] = Calendar(_dumps(calendar))
        return cls(**facts)

    def to_dict(self) -> dict[str, Any]:
        """The form that programs and people read: seconds, and times in RFC 3339."""
        shown: dict[str, Any] = {"kind": self.kind}
        for name, usual in _USUAL:
            value = getattr(self, name)
            if value == usual or name == "max_catch_up":
                continue
            if name in ("at", "start", "end"):
                value = format_time(to_datetime(value))
            elif name in ("every", "jitter"):
                value /= 1000
            shown[_NAMES.get(name, name)] = str(value) if isinstance(value, Calendar) else value
        if self.catch_up:
            shown["max_catch_up"] = self.max_catch_up
        return shown

    def __str__(self) -> str:
        if self.at is not None:
            return f"once at {format_time(to_datetime(self.at))}"
        return str(self.calendar) if self.calendar else f"every {timedelta(milliseconds=self.every or 0)}"

    def _within(self, at: int) -> datetime | None:
        return to_datetime(at) if self._is_within(at) else None

    def _is_within(self, at: int) -> bool:
        return at <= (LAST if self.end is None else self.end)

    def _after(self, done: int, at: int) -> int:
        """The first slot after a time, which is not before the slot that is done."""
        if self.calendar is not None:
            earliest = 0 if self.start is None else self.start - 1
            return self.calendar.match_after(max(at, done + SHORTEST_CALENDAR_MS - 1, earliest))
        assert self.every is not None
        origin = done if self.start is None else self.start
        return origin + max(0, (at - origin) // self.every + 1) * self.every

    def _missed(self, done: int, now: int) -> tuple[list[int], int]:
        """The newest slots after ``done`` and up to ``now``, and the number of older ones."""
        now = now if self.end is None else min(now, self.end)
        if self.every is not None:
            oldest, newest = self._after(done, done), self._after(done, now) - self.every
            count = max(0, (newest - oldest) // self.every + 1)
            first = newest - (min(count, self.max_catch_up) - 1) * self.every
            kept = list(range(first, newest + 1, self.every)) if count else []
            return kept, count - len(kept)
        # A calendar is only asked forwards: the span before now is widened until it holds enough.
        span = _HOUR
        while True:
            since = max(done, now - span)
            slots = list(self._matches(done, since, now))
            if len(slots) >= self.max_catch_up or since == done:
                break
            span *= 4
        kept = slots[-self.max_catch_up :]
        return kept, self._count(done, kept[0] - 1) if kept else 0

    def _count(self, done: int, until: int) -> int:
        """The matches of the calendar after the slot that is done."""
        assert self.calendar is not None
        counted = self.calendar.matches_between(done if self.start is None else max(done, self.start - 1), until)
        if counted is not None:
            return counted
        return sum(1 for _ in islice(self._matches(done, done, until), MOST_COUNTED))

    def _matches(self, done: int, since: int, until: int) -> Iterator[int]:
        """The matches of the calendar after a time, and after the slot that is done, up to another time."""
        match = self._after(done, since)
        while match <= until:
            yield match
            match = self._after(match, match)


#: Each field and the value that is left out.
_USUAL = tuple((each.name, each.default) for each in fields(Timetable) if each.init)
_BY_NAME = sorted(_USUAL, key=lambda each: each[0])
#: As create() calls the fields that are named otherwise here.
_NAMES = {"start": "start_at", "end": "end_at", "calendar": "schedule"}
