"""Gates and pace: what keeps a unit from being polled, and what makes it be polled at once; on a leading beat's clock."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Batch, Item, PerpetualOptions, PerpetualTask, Poll
from celery_perpetual.broker.depth import depth_of, queue_of
from tests.support import wait_until
from tests.support.contract import finish, nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery import Celery

    from tests.support.watched_app import WatchedApp

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

HOUR = 3600.0


class Shop:
    """An app with tasks whose polls are recorded, and its clock."""

    def __init__(self, watched: WatchedApp) -> None:
        self.app, self.perpetual, self.redis = watched.app, watched.perpetual, watched.redis
        self.polls: list[tuple[str, Poll]] = []
        self.clocks: list[LeadingClock] = []

    def task(self, name: str, items: Any = list, every: float = HOUR, **attributes: Any) -> Any:
        names = {"tenants", "max_in_flight", "poll_timeout", "queue"}
        given = {key: attributes.pop(key) for key in names & attributes.keys()}

        def next_batch(poll: Poll) -> Any:
            self.polls.append((name, poll))
            return items()

        return self.app.task(
            name=name, base=PerpetualTask, shared=False, poll_every=every, next_batch=next_batch,
            perpetual_options=PerpetualOptions(**attributes), **given,
        )(nothing)  # fmt: skip

    @property
    def clock(self) -> LeadingClock:
        if not self.clocks:
            self.clocks.append(LeadingClock(self.perpetual))
        return self.clocks[0]

    def another_clock(self) -> LeadingClock:
        """Make the clock of the beat that leads next."""
        self.clocks.append(LeadingClock(self.perpetual))
        return self.clocks[-1]

    def due_in(self, task: Any, tenant: Any = None) -> float:
        """Seconds from the end of a unit's last poll to its next one."""
        last = self.perpetual.polls(task, tenant)[0].finished_at
        unit = next(each for each in self.perpetual.units() if (each.task, each.tenant) == (task.name, tenant))
        assert unit.next_poll_at is not None
        return (unit.next_poll_at - last).total_seconds()

    def turn_until(self, predicate: Callable[[], Any], what: str) -> Any:
        def turned() -> Any:
            self.clock.turn()
            return predicate()

        return wait_until(turned, what, timeout=20, interval=0.005)


@pytest.fixture
def shop(watched_app: Callable[..., WatchedApp]) -> Iterator[Shop]:
    shop = Shop(watched_app())
    yield shop
    for clock in shop.clocks:
        clock.close()


def hours(begin: timedelta, end: timedelta) -> str:
    """Write a window around now, in UTC."""
    now = datetime.now(timezone.utc)
    return f"{now + begin:%H:%M}-{now + end:%H:%M} UTC"


def test_a_window_closes_the_gate_and_its_opening_is_the_next_poll(shop: Shop) -> None:
    """Outside its hours the unit is not polled, but by hand; no thread is used for that."""
    outside = shop.task("outside", every=0.05, window=hours(timedelta(hours=2), timedelta(hours=3)))
    inside = shop.task("inside", window=hours(timedelta(hours=-1), timedelta(hours=1)))
    (closed,) = shop.clock.until_polled(outside)
    shop.clock.until_polled(inside)

    assert (closed.status, closed.gate) == ("skipped", "window")
    assert closed.reason is not None
    assert closed.reason.startswith("the window ")
    assert closed.value is not None
    assert 3600 < closed.value <= 7200
    assert shop.due_in(outside) == pytest.approx(closed.value, abs=1)
    assert [name for name, _ in shop.polls] == ["inside"]
    assert shop.perpetual.poll(outside).status == "empty"


def test_closed_gates_cost_no_thread(shop: Shop) -> None:
    """With every thread taken for good, outcomes of gated units are stored all the same."""
    gated = shop.task("gated", window=hours(timedelta(hours=2), timedelta(hours=3)))
    shop.clock.until_polled(gated)
    assert shop.clock.threads._threads == 0


def test_an_idle_unit_stretches_its_interval(shop: Shop) -> None:
    """Twice as long with each poll that finds nothing, up to the longest; with an item it is back at once."""
    found: list[Any] = []
    task = shop.task("idle", lambda: list(found), every=1, max_interval=5)
    stretched = []
    for _ in range(4):
        shop.redis.zadd("perpetual:due", {"perpetual:idle": 1})
        before = len(shop.polls)
        shop.turn_until(lambda before=before: len(shop.polls) > before, "it is polled")
        shop.turn_until(lambda: not shop.redis.hexists("perpetual:u:perpetual:idle", "claim"), "it has ended")
        due = float(shop.redis.zscore("perpetual:due", "perpetual:idle"))
        stretched.append(round((due - shop.polls[-1][1].slot.timestamp() * 1000) / 1000))
        time.sleep(1.0)  # the next slot of its grid
    assert stretched == [2, 4, 5, 5]

    found.append((1,))
    assert shop.perpetual.poll(task).count == 1
    assert shop.redis.hget("perpetual:u:perpetual:idle", "idle") is None


def test_a_unit_is_refilled_when_few_items_are_left(shop: Shop) -> None:
    """The end that brings it below ``low_water`` makes it due at once, and the clock polls it within 100 ms."""
    rows = iter(range(1000))
    task = shop.task("work", lambda: [(next(rows),) for _ in range(4)], low_water=3, limit=100)
    (first,) = shop.clock.until_polled(task)
    finish(shop.perpetual, first.task_ids[0])
    for _ in range(20):
        shop.clock.turn()
    assert len(shop.polls) == 1

    ended = time.monotonic()
    finish(shop.perpetual, first.task_ids[1])
    polls = shop.clock.until_polled(task, 2)
    assert time.monotonic() - ended < 1
    assert [poll.trigger for _, poll in shop.polls] == ["schedule", "refill"]
    assert polls[-1].count == 4
    assert shop.clock.source._longest_pause < 0.1


def test_small_pages_follow_each_other_up_to_low_water(shop: Shop) -> None:
    """Ten rows at a time would never reach it, and no end of a task would fall below it: each poll asks for the next."""
    rows = iter(range(30))
    task = shop.task("work", lambda: [(n,) for n in islice(rows, 10)], low_water=25)
    polls = shop.clock.until_polled(task, 3)
    for _ in range(20):
        shop.clock.turn()
    assert [poll.count for poll in polls] == [10, 10, 10]
    assert [poll.trigger for _, poll in shop.polls] == ["schedule", "refill", "refill"]
    for task_id in polls[0].task_ids[:6]:
        finish(shop.perpetual, task_id)
    assert shop.clock.until_polled(task, 4)[-1].count == 0
    for _ in range(20):
        shop.clock.turn()
    assert len(shop.polls) == 4, "a poll that brings nothing new is not followed by another one"


def test_refill_leaves_a_back_off_alone(shop: Shop) -> None:
    """A unit that fails is not polled sooner because tasks end."""
    answers: list[Any] = [[(n,) for n in range(3)], ValueError("down")]

    def next_batch() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    task = shop.task("work", next_batch, low_water=3)
    (first,) = shop.clock.until_polled(task)
    shop.perpetual.nudge(task)
    shop.clock.until_polled(task, 2)
    shop.redis.zadd("perpetual:due", {"perpetual:work": 9e12})
    shop.redis.hset("perpetual:u:perpetual:work", "backoff", int(9e12))
    finish(shop.perpetual, first.task_ids[0])
    assert shop.redis.zscore("perpetual:due", "perpetual:work") == 9e12


def test_a_full_batch_drains_up_to_its_room(shop: Shop) -> None:
    """Polls follow at once while they bring new items; the room is the bound, and other units are not held up."""
    rows = iter(range(10_000))
    more = shop.task("more", lambda: Batch([(next(rows),)], more=True), max_in_flight=20)
    full = shop.task("full", lambda: [(next(rows),) for _ in range(5)], limit=5, max_in_flight=40)
    other = shop.task("other", every=0.05)
    shop.turn_until(lambda: (len(shop.perpetual.polls(more)), len(shop.perpetual.polls(full))) == (20, 8), "drained")
    for _ in range(20):
        shop.clock.turn()
    assert [sum(name == each for name, _ in shop.polls) for each in ("more", "full")] == [20, 8]
    assert {poll.trigger for name, poll in shop.polls if name != "other"} == {"schedule", "drain"}
    shop.clock.until_polled(other, 3)


def test_polls_of_one_source_keep_their_pace(shop: Shop) -> None:
    """Across tenants, tasks and beats: each is polled, and two permits are never closer than ``min_interval``."""
    options: dict[str, Any] = {"min_interval": 0.2, "source_key": "api of: a % customer"}
    shop.task("one", tenants=["a", "b", "c"], **options)
    shop.task("two", **options)
    shop.task("free")
    permits: set[int] = set()

    def turn(clock: Any) -> None:
        clock.turn()
        permits.add(int(shop.redis.hget("perpetual:source:api of: a % customer", "last") or 0))

    wait_until(lambda: turn(shop.clock) or len(shop.polls) >= 2, "some have been polled", interval=0.005)
    later = shop.another_clock()

    def all_stored() -> bool:
        turn(shop.clock)
        turn(later)
        return all(unit.last_poll for unit in shop.perpetual.units())

    wait_until(all_stored, "all have been polled", interval=0.002)
    assert len(shop.polls) == 5
    given = sorted(permits - {0})
    assert len(given) == 4
    gaps = [after - before for before, after in pairwise(given)]
    assert min(gaps) >= 200
    assert max(gaps) < 2000
    assert 0 < shop.redis.pttl("perpetual:source:api of: a % customer") < 120_000


def test_a_wait_that_a_source_asks_for_is_kept_by_all_its_units(shop: Shop) -> None:
    """One learns it, and the others are not polled until then; their outcome says so, and other sources are free."""

    class Asked(Exception):
        retry_after = 30

    def ask() -> Any:
        raise Asked

    first = shop.task("asked", ask, source_key="api")
    shop.clock.until_polled(first)
    shared, free = shop.task("shared", source_key="api"), shop.task("free", source_key="other")
    clock = shop.another_clock()
    (skipped,) = clock.until_polled(shared)
    clock.until_polled(free)

    assert (skipped.status, skipped.gate) == ("skipped", "wait_hint")
    assert skipped.value is not None
    assert 25 < skipped.value <= 30
    assert shop.due_in(shared) == pytest.approx(skipped.value, abs=1)
    assert [name for name, _ in shop.polls] == ["asked", "free"]
    assert "asked to be left alone" in str(shop.perpetual.why(shared).to_dict())


def test_a_deep_queue_closes_the_gate(shop: Shop) -> None:
    """From so many messages on; when workers have taken some, the unit is polled at its next slot."""
    task = shop.task("work", lambda: [Item((1,), key=False)], every=0.1, max_queue_depth=3)
    for _ in range(3):
        task.apply_async((0,))
    (closed,) = shop.clock.until_polled(task)
    assert (closed.gate, closed.value, closed.limit) == ("max_queue_depth", 3, 3)
    assert shop.polls == []

    shop.redis.lpop("celery")
    shop.turn_until(lambda: shop.polls, "it is polled again")


def test_an_unknown_depth_closes_the_gate_and_says_why(shop: Shop) -> None:
    """A router that raises, a broker that does not answer: other units are polled meanwhile."""

    def route(*_: Any, **__: Any) -> Any:
        raise LookupError("no such route")

    task, other = shop.task("work", max_queue_depth=3), shop.task("other")
    shop.app.conf.task_routes = [route]
    shop.clock.until_polled(other)
    (closed,) = shop.clock.until_polled(task)
    assert (closed.gate, closed.value) == ("max_queue_depth", None)
    assert closed.reason is not None
    assert "LookupError: no such route" in closed.reason
    assert "LookupError" in str(shop.perpetual.why(task).to_dict())


def test_the_depth_of_a_queue_of_rabbitmq(rabbitmq_url: str, make_app: Callable[..., Celery], redis_url: str) -> None:
    """The broker counts it; a queue that is not there is empty."""
    app = make_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url, task_default_queue="depth-of-a-queue")
    task = app.task(name="work", shared=False)(nothing)
    queue = queue_of(app, task)
    assert (queue, depth_of(app, queue)) == ("depth-of-a-queue", 0)
    task.delay()
    task.delay()
    wait_until(lambda: depth_of(app, queue) == 2, "both messages wait")
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        channel.queue_delete(queue)
