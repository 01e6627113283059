"""The clock goes on where the system gives it no thread, where all polls are slow, and where the store refuses a part."""

from __future__ import annotations

import json
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import PerpetualOptions
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.poll_counts import PollCounts
from celery_perpetual.polling.claims import GRACE_MS, Claim, Claims
from celery_perpetual.polling.depths import QueueDepths
from celery_perpetual.polling.end import kept_waiting
from celery_perpetual.polling.threads import LONGEST_WAIT, PollThreads
from celery_perpetual.store.commands.leadership import EntryRun
from celery_perpetual.tasks.contract import read
from celery_perpetual.tasks.unit import TaskUnit
from tests.support import wait_until
from tests.support.leading import Ending

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp

# That is how threads that never end are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

SIZE = 2


def end(threads: PollThreads) -> None:
    """End all threads."""
    for _ in range(threads._threads):
        threads._queue.put(None)  # type: ignore[arg-type]


@pytest.fixture
def claim(watched_app: Callable[..., WatchedApp]) -> Callable[[], Claim]:
    """Claim a unit that has not been polled yet."""
    watched = watched_app()
    unit = TaskUnit(read(watched.task([], perpetual_options=PerpetualOptions(max_queue_depth=5))))

    def make() -> Claim:
        watched.redis.delete(watched.perpetual.store.keys.unit(unit.name))
        made = Claims(watched.perpetual.store).by_hand(unit)
        assert isinstance(made, Claim)
        return made

    return make


@pytest.fixture
def no_thread(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The system has no thread left, until this is undone."""

    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    return monkeypatch


def test_a_thread_that_the_system_refuses_is_asked_for_once_more(
    claim: Callable[[], Claim], no_thread: pytest.MonkeyPatch
) -> None:
    """The number of threads is that of those which run."""
    polled: list[Claim] = []

    def poll(each: Claim) -> Any:
        polled.append(each)
        raise SystemError("the end is no matter here")

    first, threads = claim(), PollThreads(poll, SIZE, 0)
    threads._queue = Ending()
    with pytest.raises(RuntimeError, match="new thread"):
        threads.start(first)
    no_thread.undo()
    second = claim()
    threads.start(second)
    wait_until(lambda: len(polled) == 2, "both are polled")
    assert polled == [first, second]
    end(threads)


def test_no_more_is_claimed_ahead_once_a_claim_has_waited_too_long(claim: Callable[[], Claim]) -> None:
    """No slow poll has returned by then. What a beat that stops has given up is not handed back."""
    let_go = threading.Event()

    def poll(_: Claim) -> Any:
        assert let_go.wait(30)

    threads = PollThreads(poll, SIZE, 0)
    threads._queue = Ending()
    threads._expected = 0.001  # polls were quick
    claims = [claim() for _ in range(SIZE + 2)]
    try:
        assert threads.free > SIZE + 2
        threads.start(*claims)
        wait_until(lambda: len(threads._running) == SIZE, "every thread is taken")
        *_, given_up, late = claims
        given_up.abandoned = True
        late.begun -= LONGEST_WAIT
        given_up.begun = late.begun
        wait_until(lambda: late.age > LONGEST_WAIT, "it has waited for too long")
        assert threads.kept_waiting() == [late]
        assert threads.free == 0
    finally:
        let_go.set()
        end(threads)


def test_a_poll_that_is_handed_back_keeps_its_trigger_and_is_not_counted(claim: Callable[[], Claim]) -> None:
    """A nudge is still one when a thread is free."""
    counts, one = PollCounts(), claim()
    for trigger, then in (("nudge", "nudge"), ("schedule", "retry")):
        one.trigger, one.following = trigger, str(one.slot + 60_000)
        row = kept_waiting(one).row
        assert row is not None
        assert json.loads(row[1])["trigger"] == then
    counts.note([one, one])
    counts.take_back([one])
    assert counts.take()["app.work"][0] == 1
    counts.note([one])
    counts.take_back([one])
    assert counts.take() == {}


def test_a_poll_that_began_late_is_overdue_before_its_claim_ends(claim: Callable[[], Claim]) -> None:
    """The store counts from the claim, and would let another beat poll the unit beside it."""
    one, now = claim(), time.monotonic()
    limit = one.contract.poll_timeout
    assert not one.overdue
    one.started = now - limit - GRACE_MS / 1000
    one.begun = now
    assert one.overdue


def test_a_depth_that_no_thread_could_read_is_read_later(
    claim: Callable[[], Claim], no_thread: pytest.MonkeyPatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until then, the gate says why it is closed."""
    one = claim()
    depths = QueueDepths(one.contract.task.app)
    assert depths.is_ready(one.contract)
    closed = depths.closed(one)
    assert closed is not None
    assert "can't start new thread" in (closed.reason or "")
    no_thread.undo()
    monkeypatch.setattr("celery_perpetual.polling.depths.FRESH", 0.0)
    depths.is_ready(one.contract)

    def is_read() -> bool:
        answer = depths.closed(one)
        return answer is None or "thread" not in (answer.reason or "")

    wait_until(is_read, "the broker has answered")


def test_runs_of_entries_that_the_store_refuses_hold_up_no_polls(watched_app: Callable[..., WatchedApp]) -> None:
    """Units are polled in the same turn."""
    watched = watched_app()
    store, begun = watched.perpetual.store, []
    runs = EntryRuns(store)
    runs._unsaved["nightly"] = EntryRun(time.time(), 1)
    watched.redis.set(store.keys.leader, "a:1")
    watched.redis.set(store.keys.base, "no hash")

    class Source:
        busy = False

        def begin_storing(self) -> Callable[[], float]:
            return lambda: 0.0

        def due(self, leader: str) -> float:
            begun.append(leader)
            return 0.0

    leads: Any = SimpleNamespace(value="a:1")
    clock = Clock(leads, runs, [Source()])  # type: ignore[list-item]  # what a turn needs
    clock.turn()
    clock.turn()
    assert begun == ["a:1", "a:1"]
    runs._of_ticks.close()
