"""``PerpetualOptions`` of pace: every field changes when a unit is polled."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual, PerpetualOptions
from tests.support import wait_until
from tests.support.contract import finish, queued_tasks
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def turning(shop: Callable[..., Perpetual]) -> Iterator[Callable[..., tuple[Perpetual, LeadingClock]]]:
    """Make an app with options, and the clock of a leading beat."""
    clocks: list[LeadingClock] = []

    def make(items: Any, *, poll_every: float = 3600, **options: Any) -> tuple[Perpetual, LeadingClock]:
        perpetual = shop(items, poll_every=poll_every, perpetual_options=PerpetualOptions(**options))
        clocks.append(LeadingClock(perpetual))
        return perpetual, clocks[-1]

    yield make
    for clock in clocks:
        clock.close()


ENDS_THREADS = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


@ENDS_THREADS
def test_option_low_water(turning: Callable[..., Any]) -> None:
    """The end that leaves fewer items in flight makes the unit be polled at once."""
    rows = iter(range(100))
    perpetual, clock = turning(lambda: [(next(rows),) for _ in range(2)], low_water=2)
    finish(perpetual, clock.until_polled("deliver")[0].task_ids[0])
    assert [poll.trigger for poll in clock.until_polled("deliver", 2)] == ["schedule", "refill"]


def nothing() -> list[Any]:
    return []


@ENDS_THREADS
@pytest.mark.parametrize("queue", [None, "polls"])
def test_option_poll_queue(turning: Callable[..., Any], queue: str | None) -> None:
    """Polls that workers evaluate go to this queue, and not to the task's own."""
    perpetual, clock = turning(nothing, poll_in="worker", poll_queue=queue)
    redis = perpetual.store.redis
    wait_until(lambda: clock.turn() or redis.llen(queue or "celery"), "the poll is on its way", interval=0.005)
    assert queued_tasks(redis) == ([] if queue else ["celery_perpetual.poll"])
    wait_until(lambda: "a poll has been open since" in str(perpetual.why("deliver").to_dict()), "why explains it")
    (reason,) = (each for each in perpetual.why("deliver").reasons if "open since" in each.evidence)
    assert f"it waits in the queue {queue or 'of the task'} for one" in reason.meaning


@ENDS_THREADS
def test_option_max_interval(turning: Callable[..., Any]) -> None:
    """A poll that finds nothing makes the interval longer."""
    perpetual, clock = turning(nothing, poll_every=10, max_interval=60)
    (poll,) = clock.until_polled("deliver")
    assert (perpetual.units()[0].next_poll_at - poll.slot).total_seconds() == 20


@ENDS_THREADS
@pytest.mark.parametrize("key", [None, "api"])
def test_option_min_interval(turning: Callable[..., Any], key: str | None) -> None:
    """Two polls are no closer than that, however often the unit is due."""
    _, clock = turning(nothing, poll_every=0.01, min_interval=0.3, source_key=key)
    clock.until_polled("deliver", 3)
    (folded,) = clock.perpetual.polls("deliver")
    first = int(clock.store.redis.lindex(clock.store.keys.polls("perpetual:deliver"), 0).split(b" ")[1])
    assert folded.finished_at.timestamp() * 1000 - first > 500


@ENDS_THREADS
def test_option_source_key(turning: Callable[..., Any]) -> None:
    """The pace that a source asks for is remembered under its key, for all units that have it."""

    def ask() -> Any:
        error = ValueError("later")
        error.wait_hint = 40  # type: ignore[attr-defined]
        raise error

    perpetual, clock = turning(ask, source_key="api")
    clock.until_polled("deliver")
    quiet = int(perpetual.store.redis.hget(f"{perpetual.store.keys.source_prefix}api", "quiet"))
    assert 35_000 < quiet - perpetual.store.now() <= 40_000


@ENDS_THREADS
def test_a_queue_that_is_not_there_is_empty(turning: Callable[..., Any]) -> None:
    """Redis has no key for an empty queue, and a new broker no queue: the gate of its depth is open."""
    _, clock = turning(lambda: [(1,)], max_queue_depth=1)
    assert clock.until_polled("deliver")[0].status == "enqueued"


@ENDS_THREADS
def test_option_max_queue_depth(turning: Callable[..., Any]) -> None:
    """From so many messages on the unit is not polled."""
    perpetual, clock = turning(nothing, max_queue_depth=1)
    perpetual.app.tasks["deliver"].delay()
    (poll,) = clock.until_polled("deliver")
    assert (poll.status, poll.gate, poll.value, poll.limit) == ("skipped", "max_queue_depth", 1, 1)


@ENDS_THREADS
def test_option_preflight_ttl(shop: Callable[..., Perpetual]) -> None:
    """When it is over, the preflight runs again."""
    calls: list[str] = []
    options = PerpetualOptions(preflight_ttl=0.2)
    perpetual = shop(
        lambda poll: [], poll_every=0.02, preflight=lambda: calls.append("called"), perpetual_options=options
    )
    clock = LeadingClock(perpetual)
    clock.until_polled("deliver", 2)
    assert calls == ["called"]
    wait_until(lambda: clock.turn() or len(calls) > 1, "it is called again", interval=0.005)
    clock.close()


@ENDS_THREADS
def test_option_window(turning: Callable[..., Any]) -> None:
    """Outside the hours the unit is not polled; by hand it is."""
    now = datetime.now(timezone.utc)
    hours = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M} UTC"
    perpetual, clock = turning(nothing, window=hours)
    (poll,) = clock.until_polled("deliver")
    assert (poll.status, poll.gate) == ("skipped", "window")
    assert perpetual.poll("deliver").status == "empty"
