"""Stamped messages over RabbitMQ: confirmed, counted, relayed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from celery import Celery, signals

from celery_perpetual import Item
from tests.support import wait_until, wire
from tests.support.proxy import Proxy
from tests.support.watched_app import WatchedApp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Project


class Once:
    """A value of which number 600 is written once, and never again."""

    written: Counter[int] = Counter()

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        Once.written[self.number] += 1
        if self.number == 600 and Once.written[600] > 1:
            raise ValueError("it cannot be written any more")
        return Once, (self.number,)


@pytest.fixture
def rabbit(
    rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp]
) -> Iterator[Callable[..., WatchedApp]]:
    """Apps whose broker is RabbitMQ."""

    def make(**config: Any) -> WatchedApp:
        return watched_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url, **config)

    return make


def received(app: Celery, queue: str = "celery") -> list[Any]:
    """Take all messages out of a queue."""
    with app.connection_for_read() as connection:
        channel = connection.channel()
        messages = []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            messages.append(message)
        return messages


def test_rabbitmq_confirms_every_message(rabbit: Callable[..., WatchedApp], listening: Any) -> None:
    """Stamped messages arrive in order and to the byte; the ledger counts them, and then it is told."""
    one = rabbit()
    items = [Item(args, kwargs, key=False) for args, kwargs in [*wire.TYPES, *wire.ODD]]
    items += [Item((n,), key=False) for n in range(700)]
    counts: list[int] = []
    listening(
        signals.after_task_publish,
        lambda headers=None, **_: counts.append(
            int(one.redis.hget(f"perpetual:p:{headers['id'][:28]}ffffffff", "pub") or 0)
        ),
    )

    outcome = one.poll(items)

    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == str(len(items))
    assert one.redis.exists("perpetual:outbox") == 0
    # The chunk of which a message is part was counted before.
    assert counts == [500] * 500 + [len(items)] * (len(items) - 500)
    messages = received(one.app)
    assert [message.headers["id"] for message in messages] == outcome.task_ids
    task = one.app.tasks["app.work"]
    for args, kwargs in wire.TYPES + wire.ODD:
        task.apply_async(args, kwargs)
    for ours, theirs in zip(messages, received(one.app), strict=False):
        assert ours.body == theirs.body
        assert shape(ours) == shape(theirs)


def shape(message: Any) -> Any:
    """Everything that RabbitMQ tells of a message, but for ids."""
    properties = {name: value for name, value in message.properties.items() if name != "correlation_id"}
    properties["application_headers"] = {
        name: value for name, value in message.headers.items() if name not in {"id", "root_id"}
    }
    del properties["reply_to"]
    delivery = {name: message.delivery_info[name] for name in ("exchange", "routing_key")}
    return properties, delivery


def test_kinds_keep_their_order_and_what_is_built_ahead_its_turn(rabbit: Callable[..., WatchedApp]) -> None:
    """Three kinds by turns, one of which is never stamped, over several chunks: in the order of the items, once each."""
    one = rabbit()
    kinds: list[dict[str, Any]] = [{}, {"headers": {"kind": 1}}, {"expires": 3600}]

    outcome = one.poll([Item((n,), key=False, **kinds[n // 4 % 3]) for n in range(1300)])

    messages = received(one.app)
    assert [message.headers["id"] for message in messages] == outcome.task_ids
    assert [message.headers["argsrepr"] for message in messages] == [f"({n},)" for n in range(1300)]
    assert [message.headers.get("kind") for message in messages] == [(n // 4 % 3 == 1) or None for n in range(1300)]
    assert [message.headers["expires"] is not None for message in messages] == [n // 4 % 3 == 2 for n in range(1300)]


def test_a_fault_of_an_item_that_is_built_ahead_waits_for_its_turn(rabbit: Callable[..., WatchedApp]) -> None:
    """The chunk that the broker confirms meanwhile counts; then that item is parked, and all others are published."""
    one = rabbit(accept_content=["json", "pickle"])
    Once.written.clear()

    outcome = one.poll([Item((Once(n),), key=False, serializer="pickle") for n in range(700)])

    assert outcome.count == 700
    ids = [message.headers["id"] for message in received(one.app)]
    # Messages of the second chunk that were written before the fault are there twice, under the same ids.
    assert list(dict.fromkeys(ids)) == [each for n, each in enumerate(outcome.task_ids) if n != 600]
    assert set(Counter(ids[:500]).values()) == {1}
    assert len(ids) < 500 + 2 * 200
    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == "700"
    # Read, built ahead, built in its turn, and once more by itself.
    assert Once.written[600] >= 3


def test_a_connection_that_is_lost_between_two_chunks(
    rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp], listening: Any
) -> None:
    """The chunk that is confirmed counts; the next one, built already, is left to the relay, under the same ids."""
    where = urlsplit(rabbitmq_url)
    with Proxy(where.port or 5672) as proxy:
        one = watched_app(
            broker_url=rabbitmq_url.replace(f":{where.port}/", f":{proxy.port}/"), perpetual_store_url=redis_url
        )
        cuts: list[Any] = [proxy.cut]
        listening(signals.after_task_publish, lambda **_: [cuts.pop()() for _ in cuts[:1]])

        outcome = one.poll([Item((n,), key=False) for n in range(1200)])

        batch = f"perpetual:p:{outcome.poll_id}"
        assert one.redis.hget(batch, "pub") == "500"
        assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
        proxy.mend()
        assert one.perpetual.runner.publisher.relay() == 700
        assert one.redis.hget(batch, "pub") == "1200"
        assert [message.headers["id"] for message in received(one.app)] == outcome.task_ids


def test_a_broker_that_is_away_leaves_the_batch_to_the_relay(
    watched_app: Callable[..., WatchedApp], redis_url: str, rabbitmq_url: str
) -> None:
    """No broker listens: the poll is enqueued in the ledger, and published when the broker is back."""
    away = watched_app(broker_url="amqp://guest:guest@127.0.0.1:1//", perpetual_store_url=redis_url)

    outcome = away.poll([Item((n,), key=False) for n in range(30)])

    assert away.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
    away.app.close()
    back = watched_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url)
    back.task([])
    assert back.perpetual.runner.publisher.relay() == 30
    assert [message.headers["id"] for message in received(back.app)] == outcome.task_ids


def test_rabbitmq_holds_back_what_is_due_later(rabbitmq_url: str, project: Callable[..., Project]) -> None:
    """With quorum queues an eta goes through native delayed delivery, as apply_async sends it."""
    proj = project(
        """
        from kombu import Exchange, Queue

        app.conf.task_queues = [
            Queue("later", Exchange("later", type="topic"), "later", queue_arguments={"x-queue-type": "quorum"})
        ]
        app.conf.update(task_default_queue="later", task_default_exchange="later", task_default_exchange_type="topic",
                        task_default_routing_key="later", task_default_queue_type="quorum")

        @app.task(base=PerpetualTask, poll_every=3600, bind=True,
                  next_batch=lambda: [Item((n,), countdown=3) for n in range(10)])
        def work(self, n):
            ledger.record(n, self.request.delivery_info["routing_key"])
        """,
        broker=rabbitmq_url,
    )
    proj.worker(concurrency=1, pool="solo").ready()

    begun = float(proj.run_python("from proj import *\nimport time\nperpetual.poll(work)\nprint(time.time())"))
    rows = wait_until(lambda: len(proj.rows()) == 10 and proj.rows(), "all ran", timeout=30)

    assert all(row.what.startswith("0.0.0.") for row in rows)
    assert min(row.time for row in rows) > begun + 1
