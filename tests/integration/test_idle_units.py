"""The cost of units whose polls find nothing, and that nothing is seen later for it."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import PerpetualTask, Poll
from celery_perpetual.beat.due import DueUnits
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.leading import LEADER, LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Idle:
    """A task with one unit whose ``next_batch`` finds nothing, and the clock that polls it."""

    def __init__(self, one: WatchedApp, next_batch: Callable[..., Any] = lambda: None, every: float = 3600) -> None:
        self.redis = one.redis
        self.perpetual = one.perpetual
        options: dict[str, Any] = {"base": PerpetualTask, "shared": False, "poll_every": every}
        one.app.task(name="idle", next_batch=next_batch, **options)(nothing)
        self.clock = LeadingClock(one.perpetual)

    def calls(self, command: str) -> int:
        found: dict[str, Any] = self.redis.info("commandstats").get(f"cmdstat_{command}", {})
        return int(found.get("calls", 0))


@pytest.fixture
def idle(watched_app: Callable[..., WatchedApp]) -> Iterator[Callable[..., Idle]]:
    made: list[Idle] = []

    def make(*args: Any, **options: Any) -> Idle:
        made.append(Idle(watched_app(), *args, **options))
        return made[-1]

    yield make
    for each in made:
        each.clock.close()


def test_the_store_is_not_asked_what_is_known(idle: Callable[..., Idle]) -> None:
    """A poll costs one call for each of what is due, its claim and its end, however often the clock turns meanwhile."""
    one = idle()
    one.clock.until_polled("idle")
    one.perpetual.nudge("idle")
    one.redis.config_resetstat()
    begun = time.monotonic()

    one.clock.until_polled("idle", 2)
    for _ in range(200):
        one.clock.turn()

    asked = 1 + (time.monotonic() - begun) / 0.5
    assert one.calls("evalsha") <= 2 + asked
    assert one.calls("hset") == 2


def test_a_nudge_from_elsewhere_is_seen_within_half_a_second(idle: Callable[..., Idle]) -> None:
    """The clock knows that nothing is due for an hour, and asks all the same."""
    one = idle()
    one.clock.until_polled("idle")
    one.clock.turn()

    one.perpetual.nudge("idle")

    assert [poll.trigger for poll in one.clock.until_polled("idle", 2)][-1] == "nudge"


def test_a_nudge_during_the_poll_is_seen_with_its_end(idle: Callable[..., Idle]) -> None:
    """The end of the poll makes the unit due at once, and the clock asks at its next turn."""
    begun, may_end = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert may_end.wait(20)

    one = idle(slow)
    wait_until(lambda: (one.clock.turn(), begun.is_set())[1], "the poll has begun", interval=0.005)
    one.perpetual.nudge("idle")
    may_end.set()
    wait_until(lambda: one.clock.threads._ends, "the poll has ended")

    one.clock.source.begin_storing()()

    assert isinstance(one.clock.source.due(LEADER), DueUnits)


def test_polls_come_at_each_slot(idle: Callable[..., Idle]) -> None:
    """The next slot is known from the claim, also where another unit is due after hours."""
    one = idle(every=0.05)

    polls = one.clock.until_polled("idle", 12)

    assert sum(poll.repeated for poll in polls) >= 12
    assert polls[-1].trigger == "schedule"


def test_a_limit_that_is_not_read_costs_nothing(idle: Callable[..., Idle]) -> None:
    """It is counted once, when ``next_batch`` reads it first."""
    limits: list[int] = []
    reads = threading.Event()

    def read(poll: Poll) -> None:
        if reads.is_set():
            limits.extend((poll.limit, poll.limit))

    one = idle(read)
    one.redis.config_resetstat()
    one.clock.until_polled("idle")
    assert (one.calls("hlen"), one.calls("zcount"), limits) == (1, 0, [])  # the length is that of the pauses

    reads.set()
    one.perpetual.nudge("idle")
    one.clock.until_polled("idle", 2)
    assert (one.calls("zcount"), limits) == (1, [10_000, 10_000])
