"""Claims that wait for a poll thread: many while polls are quick, and none for long."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import PerpetualTask
from celery_perpetual.polling.threads import LONGEST_WAIT
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual import PollOutcome
    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

THREADS, UNITS = 2, 240


class Polls:
    """A ``next_batch`` that finds nothing: at once, or when it is let go."""

    def __init__(self) -> None:
        self.hold, self.let_go = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self.done = self._now = self.most_at_once = 0

    def __call__(self) -> None:
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        if self.hold.is_set():
            assert self.let_go.wait(30)
        with self._lock:
            self._now -= 1
            self.done += 1


def test_claims_wait_while_polls_are_quick_and_are_handed_back_when_they_become_slow(
    watched_app: Callable[..., WatchedApp],
) -> None:
    """No more polls run than there are threads, and each unit is polled in the end."""
    watched, polls = watched_app(), Polls()
    watched.app.task(
        name="quick", base=PerpetualTask, shared=False, poll_every=3600.0, next_batch=polls,
        tenants=[f"t{n}" for n in range(UNITS)],
    )(nothing)  # fmt: skip
    clock = LeadingClock(watched.perpetual, threads=THREADS)

    def turned(predicate: Callable[[], object], what: str) -> None:
        def turn() -> object:
            clock.turn()
            return predicate()

        wait_until(turn, what, timeout=20, interval=0.001)

    def last_polls() -> list[PollOutcome]:
        return [unit.last_poll for unit in watched.perpetual.units() if unit.last_poll is not None]

    def claimed_together() -> int:
        """The most units of one claim; they share its time."""
        return max(Counter(outcome.started_at for outcome in last_polls()).values(), default=0)

    def skipped() -> list[PollOutcome]:
        return [outcome for outcome in last_polls() if outcome.status == "skipped"]

    def all_due() -> bool:
        keys, redis = watched.perpetual.store.keys, watched.redis
        redis.zadd(keys.due, dict.fromkeys(redis.zrange(keys.units, 0, -1), 1), xx=True)
        return int(redis.zcard(keys.due)) == UNITS

    try:
        turned(all_due, "all are due at once")
        turned(lambda: claimed_together() > 4 * THREADS, "claims are taken ahead")
        polls.hold.set()
        turned(lambda: polls.most_at_once >= THREADS and clock.threads.free == 0, "every thread is taken")
        turned(skipped, f"what has waited for {LONGEST_WAIT} s is handed back")
        assert {outcome.gate for outcome in skipped()} == {"poll_threads"}
        polls.let_go.set()
        turned(
            lambda: len(last_polls()) == UNITS and {outcome.status for outcome in last_polls()} == {"empty"},
            "each is polled",
        )
    finally:
        polls.let_go.set()
        clock.close()
    assert polls.most_at_once == THREADS
    assert polls.done >= UNITS
