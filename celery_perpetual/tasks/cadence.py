"""When a perpetual task is polled: the grid of its slots.

An interval's slots are ``anchor + k * every``, so the cadence neither drifts nor depends on who polls; the anchor
is the first claim. A missed stretch is one slot, the latest, never a burst. Any other Celery schedule (crontab,
solar, one's own) is asked for its next match, with its clock set to the store's time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta, tzinfo
from hashlib import blake2b
from typing import Any, TypeGuard

from celery import current_app
from celery.schedules import BaseSchedule, crontab, schedule, solar

from celery_perpetual.errors import ContractError, shown_value
from celery_perpetual.tasks.wall_clock import Crontab, count_matches, next_match
from celery_perpetual.times import ms, to_datetime

#: Below this a cadence would be a busy loop.
SHORTEST_MS = 10
#: Seconds; nothing that is reckoned from a shorter one is without a number.
TOO_LONG = 1e15
#: The same for calendars, which may answer anything.
SHORTEST_CALENDAR_MS = 100
#: A calendar that answers the past is asked again after this time.
PAST_ANSWER = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One slot, and the due time that follows it; milliseconds of the store's clock."""

    slot: int
    following: int
    anchor: int | None = None
    """Of a calendar: the slot whose due time ``following`` is."""


class Cadence:
    """The slots of one perpetual task."""

    def __init__(
        self,
        poll_every: Any,
        *,
        jitter: float = 0.0,
        salt: str = "",
        app: Any = None,
        what: str = "poll_every",
        zone: tzinfo | None = None,
    ) -> None:
        """Read ``poll_every``: seconds, a ``timedelta``, or a Celery schedule.

        Args:
            jitter: a poll comes up to so many seconds after its slot, by a hash of slot and ``salt``.
            app: the app whose timezone a calendar without an app of its own counts in.
            zone: the time zone in which a calendar counts instead.

        Raises:
            ContractError: it is none of these, or not positive, or the jitter is not shorter than the interval.
        """
        self.every_ms, self.calendar = _read(poll_every, what)
        self._app = app
        self.zone = None if self.calendar is None else zone or zone_of(self.calendar, app)
        self.runs_user_code = self.calendar is not None and type(self.calendar) not in (crontab, solar)
        """Whether asking it runs code of the user's, which may raise or hang."""
        self.jitter_ms = ms(jitter)
        self._salt = salt
        if self.every_ms is not None and self.jitter_ms >= self.every_ms:
            raise ContractError(f"jitter ({jitter:g} s) must be shorter than {what} ({self.every_ms / 1000:g} s)")
        self.spec = f"every {self.every_ms} ms" if self.calendar is None else f"at {self.calendar!r} {self.zone}"

    @property
    def seconds(self) -> float | None:
        """The interval, or None for a calendar."""
        return None if self.every_ms is None else self.every_ms / 1000

    def __str__(self) -> str:
        return f"every {self.seconds:g} s" if self.calendar is None else repr(self.calendar)

    def first(self, now: int, spread: float) -> int:
        """Due time of a unit that was never polled: at once for an interval (later by up to ``spread`` ms)."""
        return now + int(spread) if self.every_ms else self.match_after(now)

    def occurrence(self, due: int, anchor: int | None, trigger: str, now: int) -> Occurrence:
        """The slot of a unit that is due, and when it is due next.

        Args:
            due: its due time, not after ``now``.
            anchor: of an interval its first slot, of a calendar the slot that is due; None before the first claim.
            trigger: why it is due off the grid (back-off, drain …), or ``""``; then the due time is the slot.
            now: the store's time.
        """
        if self.every_ms is None:
            slot = due if trigger or anchor is None or anchor > due else anchor
            match = self.match_after(max(now, due))
            # A poll right before a match holds back when that is polled, and not the match itself: it stays the slot.
            return Occurrence(slot, max(self._late(match), slot + SHORTEST_CALENDAR_MS), match)
        start = due if anchor is None else anchor
        latest = start + max(0, now - start) // self.every_ms * self.every_ms
        return Occurrence(due if trigger else latest, self._late(latest + self.every_ms))

    def _late(self, slot: int) -> int:
        """The slot's due time: a little later, the same on every beat."""
        if not self.jitter_ms:
            return slot
        share = int.from_bytes(blake2b(f"{self._salt} {slot}".encode(), digest_size=4).digest(), "big") / 2**32
        return slot + int(share * self.jitter_ms)

    def matches_between(self, after: int, until: int) -> int | None:
        """How many matches of a crontab there are after a time and up to another; None for any other calendar."""
        calendar = self.calendar
        if calendar is None or not is_plain(calendar):
            return None
        return count_matches(*_of_crontab(calendar, self.zone), after, until)

    def match_after(self, now: int) -> int:
        """The first match of the calendar after ``now``, whole milliseconds. May run user code."""
        calendar = self.calendar
        assert calendar is not None
        if is_plain(calendar):
            return next_match(*_of_crontab(calendar, self.zone), now)
        # copy.copy would call its __init__, and lose what a subclass keeps beside Celery's fields.
        fixed: Any = object.__new__(type(self.calendar))
        fixed.__dict__.update(self.calendar.__dict__)
        at = to_datetime(now)
        if self.zone is not None:
            at = at.astimezone(self.zone)
            fixed.tz = self.zone
        if self._app is not None and fixed.__dict__.get("_app") is None:
            fixed.__dict__.pop("utc_enabled", None)  # of the app that was current when it was asked for
            fixed._app = self._app  # noqa: SLF001  # its setter is missing on Celery 5.6
        fixed.nowfun = lambda: at
        left: timedelta = fixed.remaining_estimate(at)
        if left <= timedelta(0):
            # In the hour that the end of summer time repeats, Celery's crontab means the first of the two.
            first, second = at.replace(fold=0).utcoffset(), at.replace(fold=1).utcoffset()
            left += (first or timedelta(0)) - (second or timedelta(0))
        if left <= timedelta(0):
            left = PAST_ANSWER
        return now + max(1, ms(left.total_seconds()))


def _of_crontab(calendar: Crontab, zone: tzinfo | None) -> tuple[Crontab, tzinfo]:
    return calendar, zone or current_app.timezone


def is_plain(calendar: BaseSchedule) -> TypeGuard[Crontab]:
    """Whether it is a crontab whose matches no subclass has changed."""
    own, plain = type(calendar), crontab
    return (
        isinstance(calendar, crontab)
        and own.remaining_estimate is plain.remaining_estimate
        and getattr(own, "remaining_delta", None) is plain.remaining_delta
    )


def own_zone(calendar: Any, app: Any) -> tzinfo | None:
    """The time zone that a calendar has itself, or that of its clock; None: it counts in the zone of the app."""
    own = calendar.__dict__.get("tz")
    # Celery keeps there, too, the zone of the app that was current when the calendar was asked first.
    if own is not None and (app is None or calendar.__dict__.get("_app") is not None or own != current_app.timezone):
        return own  # type: ignore[no-any-return]
    clock = calendar.__dict__.get("nowfun")
    return None if clock is None else clock().tzinfo


def zone_of(calendar: Any, app: Any) -> tzinfo | None:
    """The time zone in which a calendar counts: its own, or that of its app, or that of ``app``; None without one."""
    app_of = calendar.__dict__.get("_app") or app
    zone: tzinfo | None = own_zone(calendar, app) or (None if app_of is None else app_of.timezone)
    return zone


def _read(poll_every: Any, what: str) -> tuple[int | None, BaseSchedule | None]:
    if isinstance(poll_every, BaseSchedule) and type(poll_every) is not schedule:
        return None, poll_every
    if type(poll_every) is schedule:
        interval: Any = poll_every
        if interval.relative:
            raise ContractError(f"{what}: schedule(relative=True) is not supported; use a crontab for round times")
        poll_every = interval.run_every
    seconds = poll_every.total_seconds() if isinstance(poll_every, timedelta) else poll_every
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not abs(seconds) < TOO_LONG:
        seen = shown_value(poll_every)
        raise ContractError(f"{what} must be seconds, a timedelta or a Celery schedule, got {seen}")
    if seconds * 1000 < SHORTEST_MS:
        raise ContractError(f"{what} must be at least {SHORTEST_MS / 1000:g} seconds, got {shown_value(poll_every)}")
    return ms(seconds), None
