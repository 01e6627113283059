"""A beat is killed at every named point between claim and outcome; the next one loses nothing and repeats nothing."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.broker import queued, taken
from tests.support.crash_checks import (
    ITEM_KEYS,
    UNIT,
    batches,
    check_that_the_next_beat_goes_on,
    check_the_store_after_the_crash,
    crash,
    cursor,
    take_over,
    wait_for_all,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


#: The work are the numbers below TOTAL; each poll brings the next SIZE of them.
SOURCE = """
def numbers(poll):
    start = poll.cursor or 0
    end = min(start + {size}, {total})
    if start < end:
        return Batch([Item(args=(n,), key=n) for n in range(start, end)], cursor=end)

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=numbers)
def visit(number):
    ledger.record(number)
"""

#: The same with a task that publishes itself: it says so in its messages, and may die over one of them.
OWN_SENDER = """
import itertools, signal
calls = itertools.count(1)

def numbers(poll):
    start = poll.cursor or 0
    end = min(start + {size}, {total})
    if start < end:
        return Batch([Item(args=(n,), key=n) for n in range(start, end)], cursor=end)

class Visit(PerpetualTask):
    name = "proj.visit"
    poll_every = 0.5
    next_batch = staticmethod(numbers)

    def run(self, number, by=None):
        ledger.record(number)

    def apply_async(self, args=None, kwargs=None, **options):
        if next(calls) == int(os.environ.get("DIE_OVER", 0)):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().apply_async(args, {{**(kwargs or {{}}), "by": "itself"}}, **options)

visit = app.register_task(Visit())
"""


#: 3 000 items are six chunks of records and of messages.
LARGE = [
    "poll.claimed", "poll.read", "poll.staged", "poll.staged:6", "poll.committing",
    "poll.committed", "poll.publishing", "poll.publishing:4", "poll.published", "poll.published:6",
]  # fmt: skip

#: Nothing is written between each of these and another one.
LARGE_ALIKE = ("poll.read", "poll.publishing", "poll.published:6", "poll.staged:6")

#: The same in the second batch, of two chunks.
LARGE_SECOND = ["poll.staged:8", "poll.publishing:8"]

#: All of them for 1 200 items that publish themselves, and how many of these are sent twice.
ITSELF = {
    "poll.claimed": 0, "poll.read": 0, "poll.staged": 0, "poll.staged:3": 0, "poll.committing": 0,
    "poll.committed": 0, "message:1": 0, "message:300": 299, "message:1200": 199, "poll.publishing": 500,
    "poll.publishing:2": 500, "poll.publishing:3": 200, "poll.published": 0, "poll.published:2": 0, "poll.published:3": 0,
}  # fmt: skip

#: And for 400, which no script brings here.
ITSELF_SMALL = {
    "poll.claimed": 0, "poll.read": 0, "poll.committing": 0, "poll.committed": 0, "message:200": 199,
    "poll.publishing": 400, "poll.published": 0,
}  # fmt: skip

#: Where this road differs from the others.
TELLING = ("poll.committed", "message:300", "poll.publishing:2", "poll.published:3", "poll.committing", "message:200")

#: And of those, where a batch of several chunks differs from one.
MOST_TELLING = ("message:300", "poll.publishing:2", "poll.committed")

#: One script brings records and messages.
SMALL = ["poll.claimed", "poll.committing", "poll.committed", "poll.committed:2"]


def numbers_project(
    project: Callable[..., Project], *, size: int, total: int, source: str = SOURCE, **options: str
) -> Project:
    """Write the project."""
    return project(source.format(size=size, total=total), perpetual_leader_ttl=3, **options)


@pytest.mark.parametrize(
    "point",
    [pytest.param(each, marks=pytest.mark.matrix if each in LARGE_ALIKE else ()) for each in [*LARGE, *LARGE_SECOND]],
)
def test_a_large_batch_is_enqueued_exactly_once(
    project: Callable[..., Project], store_redis: redis.Redis, point: str
) -> None:
    """A batch in several chunks whose beat dies between any two steps reaches the broker whole, and once."""
    proj = numbers_project(project, size=3000, total=4000)
    lost = crash(proj, point)
    committed = check_the_store_after_the_crash(store_redis, lost)

    check_that_the_next_beat_goes_on(proj, 4000, lost, committed)


@pytest.mark.parametrize("point", SMALL)
def test_a_small_batch_is_enqueued_exactly_once(
    project: Callable[..., Project], store_redis: redis.Redis, point: str
) -> None:
    """A batch that is committed and published by one script is either not there or in the broker."""
    proj = numbers_project(project, size=400, total=1200)
    lost = crash(proj, point)
    committed = check_the_store_after_the_crash(store_redis, lost)
    # Committed means published here, without anybody's help.
    assert len(queued(store_redis)) == cursor(store_redis)

    check_that_the_next_beat_goes_on(proj, 1200, lost, committed)


@pytest.mark.parametrize("point", ["poll.staged:2", "poll.committed", "poll.publishing", "poll.publishing:3"])
def test_a_batch_for_another_broker_is_enqueued_at_least_once(
    project: Callable[..., Project], store_redis: redis.Redis, rabbitmq_url: str, point: str
) -> None:
    """Over RabbitMQ no item is missing, and what is there twice is at most one chunk, with the same task ids."""
    proj = numbers_project(project, size=1200, total=1200, broker=rabbitmq_url)
    lost = crash(proj, point)
    assert list(batches(store_redis).values()) == ([1200] if lost is None else [])

    beat = take_over(proj)

    wait_until(lambda: cursor(store_redis) == 1200, "the batch is committed")
    wait_until(lambda: not store_redis.zcard("perpetual:outbox"), "the batch is published")
    assert beat.terminate()[0] == 0
    messages = taken(rabbitmq_url)
    numbers = {message.id: message.args[0] for message in messages}
    assert sorted(numbers.values()) == list(range(1200))
    assert {message.poll for message in messages} == batches(store_redis).keys()
    assert lost is None or lost[:28] not in batches(store_redis)
    again = [number for number, times in Counter(message.args[0] for message in messages).items() if times > 1]
    assert len(again) == {"poll.publishing": 500, "poll.publishing:3": 200}.get(point, 0)
    assert store_redis.hgetall(ITEM_KEYS) == {str(number): id_ for id_, number in numbers.items()}
    assert int(store_redis.hget(UNIT, "inflight") or 0) == 1200


def itself(road: str, size: int, point: str) -> Any:
    """A case; those that differ least from the other roads are left to the matrix."""
    telling = point in (TELLING if size < 1200 else MOST_TELLING)
    return pytest.param(road, size, point, marks=[] if telling else pytest.mark.matrix)


@pytest.mark.parametrize(
    ("road", "size", "point"),
    [
        *(itself("redis", 400, point) for point in ITSELF_SMALL),
        *(itself(road, 1200, point) for road in ("redis", "rabbitmq") for point in ITSELF),
    ],
)
def test_a_batch_that_publishes_itself_is_enqueued_at_least_once(
    project: Callable[..., Project], store_redis: redis.Redis, request: pytest.FixtureRequest,
    road: str, size: int, point: str,
) -> None:  # fmt: skip
    """Where tasks override ``apply_async`` no item is missing, and what is there twice has the same task id."""
    options = {"broker": request.getfixturevalue("rabbitmq_url")} if road == "rabbitmq" else {}
    proj = numbers_project(project, size=size, total=size, source=OWN_SENDER, **options)
    lost = crash(proj, point)
    assert list(batches(store_redis).values()) == ([size] if lost is None else [])

    beat = take_over(proj)

    wait_until(lambda: cursor(store_redis) == size, "the batch is committed")
    wait_until(lambda: not store_redis.zcard("perpetual:outbox"), "the batch is published")
    assert beat.terminate()[0] == 0
    messages = taken(options["broker"]) if options else queued(store_redis)
    numbers = {message.id: message.args[0] for message in messages}
    assert sorted(numbers.values()) == list(range(size))
    assert all(message.kwargs == {"by": "itself"} for message in messages)
    assert {message.poll for message in messages} == batches(store_redis).keys()
    assert lost is None or lost[:28] not in batches(store_redis)
    times = Counter(message.id for message in messages)
    assert max(times.values()) <= 2
    again, most = len(messages) - size, (ITSELF if size == 1200 else ITSELF_SMALL)[point]
    # A message that was being written when the process died may have arrived or not.
    assert 0 <= again <= most if point.startswith("message") else again == most
    assert store_redis.hgetall(ITEM_KEYS) == {str(number): id_ for id_, number in numbers.items()}
    assert int(store_redis.hget(UNIT, "inflight") or 0) == size


@pytest.mark.parametrize("size", [700, pytest.param(400, marks=pytest.mark.matrix)])
def test_a_batch_that_was_relayed_runs_and_leaves_nothing(
    project: Callable[..., Project], store_redis: redis.Redis, size: int
) -> None:
    """Every item of a batch that a crash cut in two runs once, and then the ledger has forgotten all of them."""
    proj = numbers_project(project, size=size, total=size)
    crash(proj, "poll.published" if size > 500 else "poll.committed")
    beat = take_over(proj)
    wait_for_all(store_redis, size)

    worker = proj.worker("-l", "WARNING", "--prefetch-multiplier", "100")

    wait_until(lambda: store_redis.hget(UNIT, "inflight") == "0", "nothing is in flight", timeout=60, interval=0.1)
    assert sorted(int(row.id) for row in proj.rows()) == list(range(size))
    assert [key for kind in ("i", "d", "keys") for key in store_redis.scan_iter(f"perpetual:{kind}:*")] == []
    assert store_redis.llen("celery") == 0
    (batch,) = store_redis.scan_iter("perpetual:p:*")
    assert store_redis.ttl(batch) > 0
    assert store_redis.hmget(batch, "n", "left", "success") == [str(size), "0", str(size)]
    assert worker.terminate()[0] == 0
    assert beat.terminate()[0] == 0


def test_a_poll_that_died_with_its_leader_is_made_up_for(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """However long the interval, a poll that was open when the leader died is done again by the next leader."""
    source = SOURCE.replace("poll_every=0.5", "poll_every=86400")
    proj = project(source.format(size=10, total=10), perpetual_leader_ttl=3)
    crash(proj, "poll.read")

    take_over(proj)

    # From the take-over on nothing but the claim of the dead poll stands in the way, which outlives its time limit.
    wait_until(lambda: store_redis.llen("celery") == 10, "the poll is made up for", timeout=10)
