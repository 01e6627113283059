"""One item that cannot be published: refused before the commit where that can be seen, parked alone after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import InternalError, InvalidCommand, NotAllowed, UnexpectedFrame

from celery_perpetual import Item, PerpetualTask
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.publishing.one_by_one import publish_apart
from celery_perpetual.publishing.transports import open_transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    import redis
    from celery import Celery

    from celery_perpetual.publishing.builder import Messages
    from celery_perpetual.publishing.one_by_one import PublishChunk
    from celery_perpetual.publishing.stamp import IndexedItems
    from tests.support.watched_app import WatchedApp

#: More than one chunk, and the bad one is in none of the first places.
ROWS, BAD = 1_200, 700


class Unroutable(Exception):
    """Raised by user code for one row."""


def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> None:
    if args and args[0] == BAD:
        raise Unroutable(f"no queue for row {args[0]}")


class OwnSender(PerpetualTask):
    """Publishes its messages itself, but one."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if args and args[0] == BAD:
            raise Unroutable(f"row {args[0]} has no account")
        return super().apply_async(args, kwargs, **options)


class OwnSenderAway(PerpetualTask):
    """The same, but what it raises looks like a broker that is away."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        if args and args[0] == BAD:
            raise ConnectionError("the audit service refuses the connection")
        return super().apply_async(args, kwargs, **options)


def rows(**bad: Any) -> list[Item]:
    """Items of which one has options of its own."""
    return [Item((n,), key=n, **(bad if n == BAD else {})) for n in range(ROWS)]


@pytest.fixture(params=["store", "other Redis", "RabbitMQ"])
def watched(request: pytest.FixtureRequest, redis_url: str, watched_app: Callable[..., WatchedApp]) -> Any:
    """Make apps whose broker is the store, another Redis database, or RabbitMQ."""
    urls = {
        "store": lambda: redis_url,
        "other Redis": lambda: redis_url.rsplit("/", 1)[0] + "/1",
        "RabbitMQ": lambda: request.getfixturevalue("rabbitmq_url"),
    }

    def make(**config: Any) -> WatchedApp:
        return watched_app(broker_url=urls[request.param](), perpetual_store_url=redis_url, **config)

    return make


def arrived(app: Celery) -> int:
    """Number of messages in the queue ``celery``; they are taken out."""
    count = 0
    with app.connection_for_read() as connection:
        channel: Any = connection.channel()
        app.amqp.queues["celery"](channel).declare()
        while channel.basic_get("celery", no_ack=True) is not None:
            count += 1
    return count


BEFORE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    # which: (configuration, options of the bad item, what is said of it)
    "its router raises": ({"task_routes": router}, {}, "no queue for row 700"),
    "its queue does not exist": ({"task_create_missing_queues": False}, {"queue": "nowhere"}, "nowhere"),
}


@pytest.mark.parametrize("which", BEFORE)
def test_what_building_shows_is_refused_before_the_commit(
    which: str, watched: Callable[..., WatchedApp], store_redis: redis.Redis
) -> None:
    """Nothing is committed or sent, and the outcome names the item and what was raised."""
    config, options, said = BEFORE[which]
    one = watched(**config)

    outcome = one.perpetual.poll(one.task(rows(**options)))

    assert outcome.status == "failed"
    assert f"item {BAD}" in outcome.error
    assert said in outcome.error
    assert store_redis.hget("perpetual:u:app.work", "inflight") in {None, "0"}
    assert arrived(one.app) == 0


def test_a_property_that_amqp_cannot_write_is_refused_before_the_commit(
    rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp]
) -> None:
    """RabbitMQ's client would fail on it for every message of the chunk."""
    one = watched_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url)

    outcome = one.perpetual.poll(one.task(rows(priority="urgent")))

    assert outcome.status == "failed"
    assert f"item {BAD}" in outcome.error
    assert arrived(one.app) == 0


@pytest.mark.parametrize("base", [OwnSender, OwnSenderAway])
def test_an_own_apply_async_that_raises_parks_its_item_alone(
    base: type[PerpetualTask], watched: Callable[..., WatchedApp], store_redis: redis.Redis
) -> None:
    """It is not called before the commit; after it the other items arrive, and ``why`` says what waits."""
    one = watched()
    task = one.task(rows(), base=base)

    outcome = one.perpetual.poll(task)

    assert outcome.status == "enqueued"
    assert arrived(one.app) >= ROWS - 1
    (parked,) = list(one.perpetual.parked())
    assert parked.task_id == outcome.task_ids[BAD]
    assert "cannot be published" in str(parked.reason)
    assert store_redis.exists("perpetual:outbox") == 0
    assert any("cannot be published" in reason.evidence for reason in one.perpetual.why(task).reasons)
    assert one.perpetual.wait(parked.task_id, timeout=1).status == "needs_attention"


def test_what_raises_only_after_the_commit_holds_up_no_other_item(
    watched: Callable[..., WatchedApp], store_redis: redis.Redis
) -> None:
    """A router knows a row when it is tried, and not any more when it is published."""
    calls: list[int] = []

    def forgetful(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> None:
        if args and args[0] == BAD:
            calls.append(BAD)
            if len(calls) > 1:
                raise Unroutable(f"row {args[0]} is gone")

    one = watched(task_routes=forgetful)

    outcome = one.perpetual.poll(one.task(rows()))

    assert outcome.status == "enqueued"
    assert arrived(one.app) >= ROWS - 1
    assert [each.task_id for each in one.perpetual.parked()] == [outcome.task_ids[BAD]]
    assert store_redis.exists("perpetual:outbox") == 0


@pytest.mark.parametrize("error", [NotAllowed("too many connections"), InternalError("no majority")])
def test_an_error_of_the_connection_that_is_no_fault_of_an_item_parks_none(
    error: Exception, rabbitmq_url: str, watched_app: Callable[..., WatchedApp]
) -> None:
    """RabbitMQ has closed the connection for one item, and refuses the next connection, or what comes over it."""
    one, opened = watched_app(broker_url=rabbitmq_url), list[str]()
    items = [CheckedItem("app.work", b"[[], {}]", "json", {"immediate": n == 3}, None) for n in range(6)]

    def open_publisher(stack: ExitStack) -> PublishChunk:
        opened.append("again" if opened else "first")
        if opened[1:] and isinstance(error, NotAllowed):
            raise error
        transport = stack.enter_context(open_transport(one.app, "poll", (), one_by_one=False))

        def publish(indexed: IndexedItems) -> Messages:
            if opened[1:]:
                raise error
            return transport.publish(indexed)

        return publish

    with pytest.raises(type(error)):
        publish_apart(one.app, open_publisher, list(enumerate(items)), ValueError("of the chunk"))

    assert opened == ["first", "again"]
    assert arrived(one.app) == 3


@pytest.mark.parametrize("error", [InvalidCommand("a method"), UnexpectedFrame("a frame")])
def test_an_item_for_which_the_broker_closes_the_connection_holds_up_no_other(
    error: Exception, rabbitmq_url: str, watched_app: Callable[..., WatchedApp]
) -> None:
    """The fault is in what was sent for this item, which would be sent like that again."""
    one = watched_app(broker_url=rabbitmq_url)
    items = [CheckedItem("app.work", b"[[], {}]", "json", {}, None) for _ in range(4)]

    def open_publisher(stack: ExitStack) -> PublishChunk:
        transport = stack.enter_context(open_transport(one.app, "poll", (), one_by_one=False))

        def publish(indexed: IndexedItems) -> Messages:
            if indexed[0][0] == 1:
                raise error
            return transport.publish(indexed)

        return publish

    _, unpublished = publish_apart(one.app, open_publisher, list(enumerate(items)), ValueError("of the chunk"))

    assert [(each.at, each.error) for each in unpublished] == [(1, error)]
    assert arrived(one.app) == 3
