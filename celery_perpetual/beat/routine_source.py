"""Routines that are due, as a source of the clock."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from celery_perpetual import events
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.record import Record
from celery_perpetual.routines.runs import NOT_THE_RUNS
from celery_perpetual.store.commands.routines import DueRoutines
from celery_perpetual.telemetry import emit, some

#: Longest pause between two questions: a routine that is created meanwhile waits no longer.
LONGEST_PAUSE = 0.5
#: Pause after an error, so that a broker that does not answer is not asked all the time.
AFTER_ERROR = 1.0
#: After so many seconds the start of runs may hang in code of the user's, such as a router.
HANGS = 10.0
#: Most threads that are left to hang.
MOST_HANGING = 3


class RoutineSource:
    """Starts runs of due routines on a thread of its own, because a router or a signal may be code of the user's.

    A run starts only if its routine is as it was read, whichever process starts it. Due routines are read only where
    the store still has the last mark of this beat: in an older state routines are due that have run since.

    Where a start hangs, its thread is left to itself, and the routines that were to be started with it are tried one
    by one on another thread: the one that hangs is passed over until its thread returns.
    """

    def __init__(self, runs: DueRuns) -> None:
        self._runs = runs
        runs.aside = self._passed_over
        self._starter: _Starter | None = None
        self._hanging: list[_Starter] = []
        self._aside: dict[str, _Starter] = {}
        """Routine -> the thread in which its start hangs, perhaps."""
        self._singly: deque[str] = deque()
        """Those of them that are tried by themselves, if they are still due then."""
        self._hand_over = threading.Lock()
        """Held where a start is over, and where it is left to its thread: only one of them comes first."""
        self._ask_at = 0.0
        """When the store is asked again, monotonic: the clock turns more often for polls."""
        self.ready: Callable[[], object] = lambda: None
        """Called on another thread when there may be more to do."""

    @property
    def busy(self) -> bool:
        return self._starter is not None and self._starter.due is not None

    def begin_storing(self) -> Callable[[], float]:
        """There are no ends to store."""
        return lambda: LONGEST_PAUSE

    def due(self, leader: str) -> DueRoutines | float:
        pause = self._ask_at - time.monotonic()
        if self.busy and not self._leave_what_hangs():
            return LONGEST_PAUSE
        if pause > 0:
            return max(pause, 0.001)
        found = self._read(leader)
        if found.records:
            return found
        pause = LONGEST_PAUSE
        if found.following is not None:
            pause = max(0.001, min(pause, (found.following - found.now) / 1000))
        self._ask_at = time.monotonic() + pause
        return pause

    def _read(self, leader: str) -> DueRoutines:
        while self._singly:
            routine_id = self._singly[0]  # until it is read: the store may be away
            found = self._runs.read(routine_id)
            if found is None:
                raise NotLeading(leader)
            self._singly.popleft()
            if found.records:
                return found
            self._aside.pop(routine_id, None)
        found = self._runs.read()
        if found is None:
            raise NotLeading(leader)
        return found

    def claim(self, leader: str, due: DueRoutines) -> Sequence[DueRoutines]:  # noqa: ARG002  # see the class
        """Nothing is claimed: the start is one step, which takes place once."""
        return [due]

    def start(self, claims: Sequence[DueRoutines]) -> float:
        if self._starter is None:
            self._starter = _Starter(self._start_runs, self._runs.release)
            self._starter.start()
        for due in claims:
            self._starter.take(due)
        return LONGEST_PAUSE

    def _start_runs(self, starter: _Starter, due: DueRoutines) -> bool:
        """On the thread of a starter; returns whether that goes on."""

        def begins(records: Sequence[Record]) -> None:
            with self._hand_over:
                if starter is not self._starter:
                    raise _Left
                starter.begins(records)

        try:
            self._runs.start(due, begins=begins)
        except _Left:
            return False  # another starter reads what is left
        except NOT_THE_RUNS as error:
            self._ask_at = time.monotonic() + AFTER_ERROR
            emit(events.STORE_UNREACHABLE, part="the start of routines", error=error)
        except Exception as error:
            self._ask_at = time.monotonic() + AFTER_ERROR
            emit(events.PART_FAILED, part="the start of routines", error=error)
        with self._hand_over:
            if starter is not self._starter:
                return False
            for routine_id, _ in due.records:
                self._aside.pop(routine_id, None)
            starter.due = None
        self.ready()
        return True

    def _passed_over(self) -> set[str]:
        """Routines whose start hangs."""
        return {routine_id for routine_id, starter in list(self._aside.items()) if starter.is_alive()}

    def _leave_what_hangs(self) -> bool:
        """Leave a start that has taken too long to its thread; returns whether another one may begin."""
        with self._hand_over:
            return self._leave()

    def _leave(self) -> bool:
        starter = self._starter
        if starter is None or starter.due is None or time.monotonic() - starter.since < HANGS:
            return False
        self._hanging = [each for each in self._hanging if each.is_alive()]
        if len(self._hanging) >= MOST_HANGING:
            return False
        self._starter = None
        self._hanging.append(starter)
        step = starter.step
        self._aside |= dict.fromkeys(step, starter)
        if len(step) > 1:
            self._singly.extend(step)
        emit(events.ROUTINE_START_HANGS, routines=some(step), seconds=round(time.monotonic() - starter.since))
        return True


class _Left(Exception):
    """Ends a start whose thread has been left to itself."""


class _Starter(threading.Thread):
    """Starts runs, one call after the other, for as long as the source goes on with it."""

    def __init__(self, start_runs: Callable[[_Starter, DueRoutines], bool], release: Callable[[], object]) -> None:
        super().__init__(name="perpetual-routines", daemon=True)
        self._start_runs = start_runs
        self._release = release
        self._queue: SimpleQueue[DueRoutines] = SimpleQueue()
        self.due: DueRoutines | None = None
        """The routines that are being started."""
        self.step: list[str] = []
        """Those of them whose start is under way."""
        self.since = 0.0
        """Since when, monotonic."""

    def take(self, due: DueRoutines) -> None:
        """Start these next."""
        self.since, self.due, self.step = time.monotonic(), due, [routine_id for routine_id, _ in due.records]
        self._queue.put(due)

    def begins(self, records: Sequence[Record]) -> None:
        """The start of some of them begins."""
        self.since, self.step = time.monotonic(), [record.id for record in records]

    def run(self) -> None:
        try:
            while self._start_runs(self, self._queue.get()):
                pass
        finally:
            self._release()
