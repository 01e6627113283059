"""The store's clock really steps back, under processes that remember times of it and times that hold something up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from celery.schedules import crontab

from celery_perpetual import Item, Perpetual, PerpetualOptions, PerpetualTask
from celery_perpetual.recovery.sweep import Sweep
from celery_perpetual.store.commands.lock import Lock
from celery_perpetual.store.keys import Keys
from celery_perpetual.times import to_datetime
from tests.support import wait_until
from tests.support.contract import nothing, report
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from datetime import datetime

    from celery import Celery

    from tests.support.stepping import SteppingServer

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

KEYS = Keys("perpetual")
HOUR = 3600
FAST = {"perpetual_lease_ttl": 1, "perpetual_heartbeat_interval": 0.2, "perpetual_cycle_interval": 0.2}


class Shop:
    """An app on a server whose clock steps, and the clocks of its beats."""

    def __init__(self, app: Celery, server: SteppingServer) -> None:
        app.conf.update(broker_url=server.url, timezone="UTC", **FAST)
        self.app, self.step, self.perpetual = app, server.step, Perpetual(app)
        self.redis = self.perpetual.store.redis
        self.polled: list[str] = []
        self.beats: list[LeadingClock] = []

    def task(self, name: str, items: Callable[[], Any] = list, *, every: Any = 0.05, **attributes: Any) -> None:
        def next_batch() -> Any:
            self.polled.append(name)
            return items()

        self.app.task(
            name=name, base=PerpetualTask, shared=False, poll_every=every, next_batch=next_batch, **attributes
        )(nothing)

    @property
    def now(self) -> datetime:
        return to_datetime(self.perpetual.store.now())

    def beat(self) -> LeadingClock:
        self.beats.append(LeadingClock(self.perpetual))
        return self.beats[-1]

    def due_in(self, name: str) -> float:
        """Seconds until a unit is polled."""
        due: float = self.redis.zscore(KEYS.due, f"perpetual:{name}")
        return due / 1000 - self.now.timestamp()

    def until_polled(self, *names: str, by: LeadingClock | None = None) -> None:
        """Turn until each of these is polled once more."""
        clock, before = by or self.beats[-1], len(self.polled)

        def polled() -> bool:
            clock.turn()
            return set(names) <= set(self.polled[before:])

        wait_until(polled, f"{names} are polled", timeout=15, interval=0.01)


@pytest.fixture
def shop(make_app: Callable[..., Celery], stepping_redis: SteppingServer) -> Iterator[Shop]:
    shop = Shop(make_app(), stepping_redis)
    yield shop
    for beat in shop.beats:
        beat.close()
    shop.perpetual.store.close()


def test_units_that_were_not_polled_while_the_clock_was_ahead_are_polled_in_time(shop: Shop) -> None:
    """One was paused, the claim of one seemed to be over, and one was nudged while no beat led."""
    shop.task("plain")
    shop.task("paused")
    shop.task("travels", every=0.5, perpetual_options=PerpetualOptions(poll_in="worker"))
    shop.task("nudged", every=2 * HOUR)
    first = shop.beat()
    shop.until_polled("plain", "paused", "nudged")
    wait_until(lambda: first.turn() or shop.redis.llen("celery") == 1, "a poll is on its way to a worker")
    shop.perpetual.pause("paused", reason="for a moment")

    shop.step(HOUR)
    shop.until_polled("plain")
    wait_until(lambda: first.turn() or shop.due_in("travels") > 0, "the travelling poll is given up", interval=0.01)
    wait_until(lambda: first.turn() or shop.due_in("paused") > 0, "the paused unit is passed over", interval=0.01)
    assert shop.perpetual.nudge("nudged")
    shop.step(0)
    shop.perpetual.resume("paused", from_="kept")
    later = shop.beat()

    shop.until_polled("plain", "paused", "nudged", by=later)
    wait_until(lambda: later.turn() or shop.redis.llen("celery") == 2, "the other one travels again", interval=0.01)


def test_the_first_match_of_a_calendar_that_became_known_ahead_is_not_left_out(shop: Shop) -> None:
    """It lay between the two times of the clock."""
    match = shop.now + timedelta(seconds=HOUR / 2)
    shop.task("daily", every=crontab(minute=str(match.minute), hour=str(match.hour)))
    shop.step(HOUR)
    first = shop.beat()
    first.turn()
    assert shop.due_in("daily") > 12 * HOUR

    shop.step(0)
    wait_until(lambda: first.turn() or 0 < shop.due_in("daily") <= HOUR / 2, "it is due at its first match")


def test_a_lock_whose_holder_died_while_the_clock_was_ahead_expires_in_time(shop: Shop) -> None:
    """A maintenance pass died; the next ones would have nothing to do for an hour."""
    shop.step(HOUR)
    assert Lock(shop.perpetual.store, KEYS.cycle, 1).acquire()
    shop.step(0)

    wait_until(lambda: not shop.perpetual.cycle().busy, "a pass takes place", timeout=15)


def test_what_was_lost_while_the_clock_was_ahead_is_resent_in_time(shop: Shop) -> None:
    """A leader remembers since when it misses an item, and since when it sees a message that no worker has reported."""
    shop.task("work", lambda: [Item(key=queue, queue=queue) for queue in ("celery", "gone")], every=HOUR)
    shop.perpetual.poll("work")
    assert shop.redis.delete("gone") == 1
    with shop.app.connection_for_read() as connection:  # of a worker that is gone
        connection.SimpleQueue("celery").get(timeout=5)
        sweep, number = Sweep(shop.app, shop.perpetual.grants), 0

        def passes(seconds: float) -> None:
            nonlocal number
            until = shop.now + timedelta(seconds=seconds)
            while shop.now < until:
                number += 1
                report(shop.perpetual, number)
                sweep.once()

        shop.step(HOUR)
        passes(0.2)  # both are seen
        assert not shop.redis.exists("celery", "gone")
        shop.step(0)

        def resent() -> bool:
            passes(0.2)
            return bool(shop.redis.exists("celery", "gone") == 2)

        wait_until(resent, "both are in their queue again", timeout=15)
