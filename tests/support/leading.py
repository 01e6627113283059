"""The clock of a leading beat, turned by a test: due units are claimed, polled on threads, and their ends stored."""

from __future__ import annotations

from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from celery_perpetual.beat.poll_source import PollSource
from celery_perpetual.beat.roster import Roster
from celery_perpetual.polling.threads import PollThreads
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual import Perpetual, PollOutcome

LEADER = "test:1"


class Ending(SimpleQueue[Any]):
    """Ends the threads that wait on it when the test ends, and their connections to the broker."""

    def __init__(self, release: Callable[[], None] = lambda: None) -> None:
        self._release = release

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        claim = super().get(block, timeout)
        if claim is None:
            self._release()
            raise SystemExit
        return claim


class LeadingClock:
    """A leading beat's work for units, a turn at a time; several may share one lead."""

    def __init__(self, perpetual: Perpetual, threads: int = 4) -> None:
        self.perpetual, self.store = perpetual, perpetual.store
        self.store.redis.set(self.store.keys.leader, LEADER)
        self.threads = PollThreads(perpetual.runner.poll, threads, 2)
        self.threads._queue = Ending(perpetual.runner.publisher.release)
        roster = Roster(perpetual.app, perpetual.settings)
        self.source = PollSource(self.store.clone(), roster, perpetual.runner, self.threads, None)  # type: ignore[arg-type]  # no mark
        self.source._senders._queue = Ending(perpetual.runner.publisher.release)

    def turn(self) -> None:
        """Store what has ended, and start what is due."""
        stored = self.source.begin_storing()
        due = self.source.due(LEADER)
        if not isinstance(due, float):
            self.source.start(self.source.claim(LEADER, due))
        stored()

    def until_polled(self, task: Any, times: int = 1) -> list[PollOutcome]:
        """Turn until the unit has so many outcomes; they come oldest first."""

        def polled() -> list[PollOutcome]:
            self.turn()
            found = self.perpetual.polls(task)
            return found[::-1] if sum(outcome.repeated for outcome in found) >= times else []

        return wait_until(polled, f"{times} polls have ended", timeout=20, interval=0.005)

    def close(self) -> None:
        for threads in (self.threads, self.source._senders):
            for _ in range(threads._threads):
                threads._queue.put(None)
        self.source._ends.store.close()
        self.source._claims.store.close()


def classify(error: BaseException) -> str | None:
    """Classify as a project does."""
    return "quota" if "quota" in str(error) else None
