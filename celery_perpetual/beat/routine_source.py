"""Routines that are due, as a source of the clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from celery_perpetual import events
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.runs import NOT_THE_RUNS
from celery_perpetual.store.commands.routines import DueRoutines
from celery_perpetual.telemetry import emit

#: Longest pause between two questions: a routine that is created meanwhile waits no longer.
LONGEST_PAUSE = 0.5
#: Pause after an error, so that a broker that does not answer is not asked all the time.
AFTER_ERROR = 1.0


class RoutineSource:
    """Starts runs of due routines on a thread of its own, because a router or a signal may be code of the user's.

    A run starts only if its routine is as it was read, whichever process starts it. Due routines are read only where
    the store still has the last mark of this beat: in an older state routines are due that have run since.
    """

    def __init__(self, runs: DueRuns) -> None:
        self._runs = runs
        self._queue: SimpleQueue[DueRoutines] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._works = False
        self._ask_at = 0.0
        """When the store is asked again, monotonic: the clock turns more often for polls."""
        self.ready: Callable[[], object] = lambda: None
        """Called on another thread when there may be more to do."""

    @property
    def busy(self) -> bool:
        return self._works

    def begin_storing(self) -> Callable[[], float]:
        """There are no ends to store."""
        return lambda: LONGEST_PAUSE

    def due(self, leader: str) -> DueRoutines | float:
        pause = self._ask_at - time.monotonic()
        if self._works or pause > 0:
            return max(pause, 0.001) if not self._works else LONGEST_PAUSE
        found = self._runs.read()
        if found is None:
            raise NotLeading(leader)
        if found.records:
            return found
        pause = LONGEST_PAUSE
        if found.following is not None:
            pause = max(0.001, min(pause, (found.following - found.now) / 1000))
        self._ask_at = time.monotonic() + pause
        return pause

    def claim(self, leader: str, due: DueRoutines) -> Sequence[DueRoutines]:  # noqa: ARG002  # see the class
        """Nothing is claimed: the start is one step, which takes place once."""
        return [due]

    def start(self, claims: Sequence[DueRoutines]) -> float:
        self._works = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="perpetual-routines", daemon=True)
            self._thread.start()
        for due in claims:
            self._queue.put(due)
        return LONGEST_PAUSE

    def _work(self) -> None:
        while True:
            due = self._queue.get()
            try:
                self._runs.start(due)
            except NOT_THE_RUNS as error:
                self._ask_at = time.monotonic() + AFTER_ERROR
                emit(events.STORE_UNREACHABLE, part="the start of routines", error=error)
            except Exception as error:
                self._ask_at = time.monotonic() + AFTER_ERROR
                emit(events.PART_FAILED, part="the start of routines", error=error)
            self._works = False
            self.ready()
