"""The threads that run polls in beat.

They are daemon threads of our own: an executor's exit hook would wait for a ``next_batch`` that never returns. A poll
that outlives its time limit is abandoned and its thread replaced, until too many hang; a unit whose thread still hangs
is not started a second time in this process. When none is left, polls go to the workers.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

from celery.utils.log import get_logger

from celery_perpetual.polling.claims import Claim

logger = get_logger(__name__)

#: A poll that runs for longer gives its place to others, as long as threads that may hang are left: it may never end.
SLOW_SECONDS = 1.0


class PollThreads:
    """A bounded set of threads that run claims."""

    def __init__(self, run: Callable[[Claim], object], size: int, most_abandoned: int) -> None:
        self._run = run
        self._size = size
        self._most_abandoned = most_abandoned
        self._queue: SimpleQueue[Claim] = SimpleQueue()
        self._lock = threading.Lock()
        self._running: dict[str, Claim] = {}
        self._hanging: dict[str, Claim] = {}
        self._threads = 0
        self.on_end: Callable[[], object] = lambda: None
        """Called when a poll has ended: its unit may be due again at once."""

    @property
    def free(self) -> int:
        """How many more polls can start now."""
        with self._lock:
            slow = sum(claim.age > SLOW_SECONDS for claim in self._running.values())
            lost = max(0, slow + len(self._hanging) - self._most_abandoned)
            return max(0, self._size - lost - len(self._running) + slow)

    @property
    def worn_out(self) -> bool:
        """Whether so many threads hang that none is left."""
        with self._lock:
            return len(self._hanging) - self._most_abandoned >= self._size

    @property
    def running(self) -> list[Claim]:
        """Polls in progress, without the abandoned ones."""
        with self._lock:
            return list(self._running.values())

    def hanging(self, unit: str) -> Claim | None:
        """The abandoned poll of a unit whose ``next_batch`` has not returned yet."""
        with self._lock:
            return next((c for c in self._hanging.values() if c.perpetuity.unit == unit), None)

    def start(self, claim: Claim) -> None:
        """Run a claim on a free thread."""
        with self._lock:
            self._running[claim.poll_id] = claim
            needed = len(self._running) + len(self._hanging) > self._threads
            self._threads += needed
        if needed:
            threading.Thread(target=self._work, name="perpetual-poll", daemon=True).start()
        self._queue.put(claim)

    def overdue(self) -> list[Claim]:
        """Take out the polls whose time limit has passed; their threads are given up."""
        with self._lock:
            late = [c for c in self._running.values() if c.overdue and not c.committed.is_set()]
            for claim in late:
                self._hanging[claim.poll_id] = self._running.pop(claim.poll_id)
        return late

    def _work(self) -> None:
        while True:
            claim = self._queue.get()
            try:
                self._run(claim)
            except BaseException:  # a thread that ends here would cost a place for good
                logger.exception("perpetual: poll of %s broke off; its claim expires", claim.perpetuity.unit)
            with self._lock:
                self._running.pop(claim.poll_id, None)
                self._hanging.pop(claim.poll_id, None)
            self.on_end()
