"""Ends that could not be announced at once, and results that Celery could not store.

They are kept in memory, up to a bound, and a thread tries until the store, or Celery's result backend, does its work
again. Nothing is dropped while the process lives; if it dies, its tasks are lost with their leases, and are recovered.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.completions.end import LATE
from celery_perpetual.completions.waiting_ends import OwnEnds, SharedEnds
from celery_perpetual.errors import is_outage
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery_perpetual.completions.end import Closing, EndReply
    from celery_perpetual.completions.result_in_script import ResultToStore

#: Ends that wait, per process.
MOST_WAITING = 10_000

#: Pause between two tries.
RETRY_SECONDS = 0.5

#: For so long the announcing of ends waits for results that are being stored: a backend may take its time, or hang.
STORING_SECONDS = 2.0

#: Pauses between two tries to announce an end that the store answers with an error: the first one, and the longest.
REFUSED_SECONDS, LONGEST_REFUSED_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class UnstoredResult:
    """A result that Celery's backend could not store yet."""

    store: Callable[[], object]
    """Stores it; called until it succeeds."""
    follow: Callable[[], object]
    """Celery's own work after it, such as counting a chord; called once."""
    passes: Callable[[BaseException], bool]
    """Whether an error of the backend is an outage, so that trying again may help."""


@dataclass(slots=True, eq=False)
class WaitingEnd:
    """One end, and what is to be stored for Celery before it is announced, or with it."""

    expected: Closing
    status: str
    head: str
    result: ResultToStore | None = None
    """To be stored in the same step."""
    unstored: UnstoredResult | None = None
    """To be stored by Celery's backend before; also where the step turns out not to be able to."""
    is_announced: bool = False
    """Whether only the result is left to be stored."""
    is_entered: bool = False
    """Whether its worker knows that it waits."""

    @property
    def is_stored_by_celery(self) -> bool:
        return self.unstored is not None and self.result is None


class Backlog:
    """The ends of one process. Safe to share between threads."""

    def __init__(
        self, announce: Callable[[WaitingEnd], EndReply], shared: Callable[[], SharedEnds | None] = lambda: None
    ) -> None:
        """Start nothing yet.

        Args:
            announce: announces one end; raises StoreUnavailable.
            shared: by which the worker of this process knows what waits; None where it has none.
        """
        self._own = OwnEnds(shared)
        self.is_away = False
        """Whether ends wait for a store that did not answer."""
        self._announce = announce
        self._ends = deque[WaitingEnd]()
        self._unstored = deque[WaitingEnd]()
        """Ends whose result comes first: the thread stores it, as a backend may take its time."""
        self._refused = deque[WaitingEnd]()
        """Ends that the store answers with an error: they keep no other end waiting."""
        self._lock = threading.Lock()
        """Held while a list changes, or a thread begins or ends."""
        self._thread: threading.Thread | None = None
        self._storing: threading.Thread | None = None
        """Stores results."""
        self._is_busy = False

    @property
    def is_empty(self) -> bool:
        # First of all whether results are being stored: what that thread has in hand is on no list until its end.
        return not (self._is_storing or self._ends or self._unstored or self._refused)

    @property
    def _is_storing(self) -> bool:
        storing = self._storing
        return storing is not None and storing.is_alive()

    @property
    def comes_first(self) -> bool:
        """Whether other ends wait for the store, so that a new one has to wait behind them."""
        return self.is_away or bool(self._ends)

    def add(self, end: WaitingEnd) -> None:
        """Keep an end. Tries nothing."""
        self._keep(self._unstored if end.is_stored_by_celery else self._ends, end)

    def _keep(self, ends: deque[WaitingEnd], end: WaitingEnd, *, first: bool = False) -> None:
        """Keep an end on a list; where that is full, another one is given up, and its task counts as lost."""
        given_up = None
        try:
            self._say_whether_it_waits(end)
        finally:  # whatever interrupts that: a time limit, or a pool that stops its greenlets
            with self._lock:
                if len(ends) >= MOST_WAITING:
                    given_up = ends.pop() if first else ends.popleft()
                if first:
                    ends.appendleft(end)
                else:
                    ends.append(end)
            if given_up is not None:
                self._leave(given_up)

    def _say_whether_it_waits(self, end: WaitingEnd) -> None:
        if end.is_announced:
            self._leave(end)
        elif not end.is_entered:
            end.is_entered = True
            with suppress(SoftTimeLimitExceeded):  # as in add_failed
                self._own.enter(end.expected.task_id)

    def _next(self, ends: deque[WaitingEnd]) -> WaitingEnd | None:
        """Take the first one off a list; None where it is empty."""
        with self._lock:
            return ends.popleft() if ends else None

    def _leave(self, end: WaitingEnd) -> None:
        """Its task waits for nothing."""
        if end.is_entered:
            end.is_entered = False
            self._own.remove(end.expected.task_id)

    def add_failed(self, end: WaitingEnd, error: BaseException, *, is_hurried: bool = False) -> None:
        """Keep an end that could not be announced.

        Args:
            end: that end.
            error: why.
            is_hurried: whether the store had less time than usual: then it may still be there.
        """
        if is_outage(error):
            self.is_away = self.is_away or not is_hurried
            self._keep(self._ends, end, first=True)
            emit(events.END_DELAYED, task_id=end.expected.task_id, error=error)
        elif isinstance(error, SoftTimeLimitExceeded):  # raised wherever the task is: nothing is wrong with its end
            self._keep(self._ends, end, first=True)
        else:
            self._keep(self._refused, end)
            emit(events.END_REFUSED, task_id=end.expected.task_id, error=error)

    def announce_oldest_first(self) -> bool:
        """Announce every end that waits for nothing but the store; False if it does not answer."""
        while (end := self._next(self._ends)) is not None:
            try:
                reply = self._announce(end)
            except Exception as error:  # no end is dropped, whatever it is
                self.add_failed(end, error)
                if self._ends and self._ends[0] is end:
                    return False
            else:
                # Where another execution has taken over, its result counts too.
                is_late = reply.verdict == LATE and getattr(end.expected, "leased", False)
                if end.unstored is not None and not reply.result_stored and not is_late:
                    end.result, end.is_announced = None, not reply.has_done_nothing
                    self.add(end)
                else:
                    self._leave(end)
        self.is_away = False
        return True

    def try_later(self) -> None:
        """Have a thread work off what waits, if anything does."""
        if self.is_empty:
            return
        with self._lock:
            # It has ended by itself, it was not begun for lack of threads, or it is one of the process that was forked.
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._keep_trying, name="perpetual-ends", daemon=True)
                thread.start()
                self._thread = thread

    def flush(self, seconds: float) -> None:
        """Before the process ends: give the thread so much time."""
        deadline = time.monotonic() + seconds
        while (thread := self._thread) is not None and time.monotonic() < deadline:
            if not (self._is_storing or self._ends or self._unstored or self._is_busy):
                break
            thread.join(0.05)

    def _keep_trying(self) -> None:
        pause, next_refused = REFUSED_SECONDS, time.monotonic() + REFUSED_SECONDS
        while True:
            self._is_busy = False
            with self._lock:
                if self.is_empty:
                    self._thread = None
                    return
            time.sleep(RETRY_SECONDS)
            self._is_busy = True
            self._own.write_again()
            if self._refused and time.monotonic() >= next_refused:
                pause = min(2 * pause, LONGEST_REFUSED_SECONDS)
                next_refused = time.monotonic() + pause
                for _ in range(len(self._refused)):  # further ones may come meanwhile
                    if (end := self._next(self._refused)) is not None:
                        self._keep(self._ends, end)
            if self.announce_oldest_first():
                self._have_results_stored()
                self.announce_oldest_first()

    def _have_results_stored(self) -> None:
        """Wait a while for that: ends that wait for nothing but the store go on, whatever the backend does."""
        if self._unstored and not self._is_storing:
            storing = threading.Thread(target=self._store_results, name="perpetual-results", daemon=True)
            storing.start()
            self._storing = storing
        if self._storing is not None:
            self._storing.join(STORING_SECONDS)

    def _store_results(self) -> None:
        """Have Celery's backend store what it could not store, until it cannot."""
        while (end := self._next(self._unstored)) is not None:
            assert end.unstored is not None
            try:
                end.unstored.store()
            except (Exception, SystemExit) as error:
                if _may_pass(end.unstored, error):
                    self._keep(self._unstored, end, first=True)
                    return
                emit(events.RESULT_REFUSED, task_id=end.expected.task_id, error=error)
            else:
                self._follow(end)
            end.unstored = None
            if not end.is_announced:
                self._keep(self._ends, end)

    def _follow(self, end: WaitingEnd) -> None:
        assert end.unstored is not None
        try:
            end.unstored.follow()
        except (Exception, SystemExit) as error:
            emit(events.RESULT_FOLLOW_UP_FAILED, task_id=end.expected.task_id, error=error)


def _may_pass(result: UnstoredResult, error: BaseException) -> bool:
    """Whether storing it again may help."""
    try:
        return result.passes(error)
    except Exception:  # of a backend that is the user's
        return is_outage(error)
