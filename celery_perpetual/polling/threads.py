"""The threads that run polls in beat.

They are daemon threads of our own: an executor's exit hook would wait for a ``next_batch`` that never returns. A poll
that outlives its time limit is abandoned and its thread replaced, until too many hang; a unit whose thread still hangs
is not started a second time in this process. When none is left, polls go to the workers.

A thread that has the end of a poll which enqueues nothing hands it over and is free for the next poll: the clock stores
all ends that wait in one call. As long as polls are quick, claims are taken ahead of the threads too, so that one call
claims many units: as many as the threads are expected to begin within a moment. One that was not begun in time, because
the polls before it are slow all at once, is handed back.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue

from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.closing import broke_off
from celery_perpetual.polling.end import PollEnd

#: A poll that runs for longer gives its place to others, as long as threads that may hang are left: it may never end.
SLOW_SECONDS = 1.0
#: Most outcomes that are taken out at once: more would keep other calls of the store waiting.
MOST_ENDS = 50
#: Most claims that wait for a thread: twice what is claimed at once, so that polls run while the store claims the next.
MOST_WAITING = 100
#: As many wait as the threads are expected to begin within so many seconds.
AHEAD_SECONDS = 0.02
#: A claim that has waited for so long is handed back; well below the time that a claim outlives its poll.
LONGEST_WAIT = 0.25
#: Weight of the latest poll in the time that polls are expected to take.
WEIGHT = 1 / 8


class PollThreads:
    """A bounded set of threads that run claims."""

    def __init__(self, poll: Callable[[Claim], PollEnd], size: int, most_abandoned: int) -> None:
        """Start nothing yet.

        Args:
            poll: called with a claim on one of the threads. An end that is not stored is left to be stored.
        """
        self._poll = poll
        self._size = size
        self._most_abandoned = most_abandoned
        self._queue: SimpleQueue[bool] = SimpleQueue()
        """A call for one thread, to take what waits."""
        self._called = False
        """A call that no thread has heard yet; more of them would only wake threads that find nothing."""
        self._lock = threading.Lock()
        self._waiting: deque[Claim] = deque()
        self._expected = SLOW_SECONDS
        """Seconds that the latest polls took, the last ones above all."""
        self._running: dict[str, Claim] = {}
        self._hanging: dict[str, Claim] = {}
        self._ending: dict[str, Claim] = {}
        """Polls whose end is not stored yet."""
        self._ends: deque[PollEnd] = deque()
        self._stored_themselves = False
        self._threads = 0
        self.on_end: Callable[[bool], object] = lambda _: None
        """Called when a poll has ended, with whether its end waits to be stored; else its unit may be due at once."""

    @property
    def free(self) -> int:
        """How many more polls can start now."""
        with self._lock:
            ahead = min(MOST_WAITING, int(AHEAD_SECONDS * self._size / self._expected))
            room = self._most_at_once() - len(self._running) - len(self._waiting)
            return max(0, room + ahead - max(0, len(self._ending) - self._size - ahead))

    @property
    def worn_out(self) -> bool:
        """Whether so many threads hang that none is left."""
        with self._lock:
            return len(self._hanging) - self._most_abandoned >= self._size

    @property
    def running(self) -> list[Claim]:
        """Polls whose end is not stored yet, without the abandoned ones."""
        with self._lock:
            return [*self._running.values(), *self._waiting, *self._ending.values()]

    def hanging(self, unit: str) -> Claim | None:
        """The abandoned poll of a unit whose ``next_batch`` has not returned yet."""
        with self._lock:
            return next((c for c in self._hanging.values() if c.unit.name == unit), None) if self._hanging else None

    def start(self, *claims: Claim) -> None:
        """Run claims on free threads, or on the next ones that are free."""
        with self._lock:
            self._waiting += claims
            wanted = min(len(self._running) + len(self._waiting), self._most_at_once()) + len(self._hanging)
            missing = max(0, wanted - self._threads)
            self._threads += missing
        try:
            while missing:
                threading.Thread(target=self._work, name="perpetual-poll", daemon=True).start()
                missing -= 1
        finally:  # the system may refuse a thread; the next start tries again
            with self._lock:
                self._threads -= missing
            self._call()

    def has_ended(self, end: PollEnd) -> None:
        """A poll has ended without a thread: a gate was closed."""
        with self._lock:
            self._ending[end.claim.poll_id] = end.claim
            self._ends.append(end)

    @property
    def ends_waiting(self) -> int:
        """How many ends wait to be stored."""
        return len(self._ends)

    def ended(self) -> list[PollEnd]:
        """Take out ends that wait to be stored, the oldest first."""
        with self._lock:
            return [self._ends.popleft() for _ in range(min(MOST_ENDS, len(self._ends)))]

    def stored_themselves(self) -> bool:
        """Whether polls have ended since the last call that had stored their end, or have none."""
        with self._lock:
            found, self._stored_themselves = self._stored_themselves, False
        return found

    def were_stored(self, ends: Sequence[PollEnd]) -> None:
        """These have been stored, or cannot be."""
        with self._lock:
            for end in ends:
                self._ending.pop(end.claim.poll_id, None)

    def kept_waiting(self) -> list[Claim]:
        """Take out the claims that have waited too long for a thread."""
        with self._lock:
            late: list[Claim] = []
            while self._waiting and (self._waiting[0].abandoned or self._waiting[0].age > LONGEST_WAIT):
                claim = self._waiting.popleft()
                if not claim.abandoned:  # a beat that stops has given it up
                    late.append(claim)
            if late:  # no poll has to return before it is known that they are slow
                self._expected = max(self._expected, SLOW_SECONDS)
        return late

    def overdue(self) -> list[Claim]:
        """Take out the polls whose time limit has passed before their commit; threads that are late are given up.

        After the commit a router, a receiver of signals or an ``apply_async`` of the user's may hang as well.
        """
        with self._lock:
            late = [claim for claim in self._running.values() if claim.overdue]
            for claim in late:
                self._hanging[claim.poll_id] = self._running.pop(claim.poll_id)
        return [claim for claim in late if not claim.committed]

    def _most_at_once(self) -> int:
        """How many polls may run now. With the lock."""
        slow = sum(claim.age > SLOW_SECONDS for claim in self._running.values())
        return self._size - max(0, slow + len(self._hanging) - self._most_abandoned) + slow

    def _call(self) -> None:
        """Call a thread to what waits. A poll may take long, so the thread that takes one calls the next thread first;
        where polls are quick, the first thread has taken everything before the next one hears it.
        """
        with self._lock:
            if self._called or not self._waiting:
                return
            self._called = True
        self._queue.put(True)

    def _work(self) -> None:
        while True:
            self._queue.get()
            self._called = False
            while (claim := self._taken()) is not None:
                self._call()
                self._run(claim)

    def _taken(self) -> Claim | None:
        """The next claim, if there is one that may run now."""
        with self._lock:
            while self._waiting and len(self._running) < self._most_at_once():
                claim = self._waiting.popleft()
                if not claim.abandoned:  # a beat that stops has given it up
                    claim.begun = time.monotonic()
                    self._running[claim.poll_id] = claim
                    return claim
        return None

    def _run(self, claim: Claim) -> None:
        end: PollEnd | None = None
        try:
            end = self._poll(claim)
        except BaseException as error:  # a thread that ends here would cost a place for good
            broke_off(claim, error)
        waits = end is not None and not end.stored
        with self._lock:
            self._running.pop(claim.poll_id, None)
            self._hanging.pop(claim.poll_id, None)
            self._expected += WEIGHT * (claim.age - self._expected)
            if end is not None and waits:
                self._ending[claim.poll_id] = claim
                self._ends.append(end)
            else:
                self._stored_themselves = True
        self.on_end(waits)
