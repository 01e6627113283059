"""The clock: asks its sources what is due, claims it and starts it.

It runs on a thread of its own. So a slow store, a slow broker or ten thousand due units never hold up the ticks of the
base scheduler, and a slow tick does not hold up the polls. It runs no user code.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any

from celery_perpetual import events
from celery_perpetual.beat.due_source import DueSource
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.telemetry import emit

#: Longest pause between two turns.
LONGEST_PAUSE = 0.5
#: Pause while this process does not lead.
STANDBY_PAUSE = 0.05
#: Runs of entries that the store refuses, over a key of a wrong type, are left alone for so many seconds.
PUT_ASIDE = 10.0


class Clock(threading.Thread):
    """Turns while this process leads, and until what it has started has ended."""

    def __init__(
        self, leadership: Leadership, entry_runs: EntryRuns, sources: Sequence[DueSource[Any, Any]],
        health: LeadHealth | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name="perpetual-clock", daemon=True)
        self._health = health or LeadHealth()
        self._error: Exception | None = None
        """Of this turn, if it is not the store's."""
        self._leadership = leadership
        self._entry_runs = entry_runs
        self._sources = sources
        self._halt = threading.Event()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._save_from = 0.0
        """Before that, runs of entries are not saved: the store has refused them; monotonic."""
        self._woken = False
        """A turn is due that sees all that happened before; more wakes would only repeat it."""

    def halt(self) -> None:
        """Claim nothing from now on."""
        self._halt.set()
        self.wake()

    def wake(self) -> None:
        """Turn now. May be called from a signal handler that interrupts another call: this queue takes no lock."""
        if not self._woken:
            self._woken = True
            self._wakes.put(None)

    def rest(self, pause: float) -> None:
        """Wait for so many seconds, or until another thread wakes the clock."""
        with suppress(Empty):
            self._wakes.get(timeout=pause)
        self._woken = False

    def run(self) -> None:
        while not self._halt.is_set() or any(source.busy for source in self._sources):
            self.rest(self.turn())

    def turn(self) -> float:
        """Turn once for each source; seconds until the next turn."""
        self._error = None
        self._health.turn_begins()
        pause = min(self._guarded(source) for source in self._sources)
        self._health.turn_ended(self._error)
        return pause

    def _guarded(self, source: DueSource[Any, Any]) -> float:
        """An error of one source does not hold up the others."""
        try:
            return self._turn_of(source)
        except NotLeading as error:
            if error.refused is not None:
                self._leadership.lost(error.refused)
            return STANDBY_PAUSE
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="the clock", error=error)
        except Exception as error:
            self._error = error
            emit(events.PART_FAILED, part="the clock", error=error)
        return LONGEST_PAUSE

    def _turn_of(self, source: DueSource[Any, Any]) -> float:
        stored = source.begin_storing()
        try:
            pause = self._start_due(source)  # while the store works on what has ended
        finally:
            longest = stored()
        return min(pause, longest)

    def _start_due(self, source: DueSource[Any, Any]) -> float:
        leader = self._leadership.value
        if self._halt.is_set():
            return LONGEST_PAUSE
        if leader is None:
            return STANDBY_PAUSE
        self._save_entry_runs(leader)
        due = source.due(leader)
        if isinstance(due, float):
            return due
        claims = source.claim(leader, due)
        return source.start(claims)

    def _save_entry_runs(self, leader: str) -> None:
        """Save them; a refusal of the store does not hold up polls and routines."""
        if self._save_from > time.monotonic():
            return
        try:
            self._entry_runs.save(leader)
        except StoreRefused as error:
            self._save_from = time.monotonic() + PUT_ASIDE
            emit(events.PART_FAILED, part="the runs of the base scheduler's entries", error=error)
