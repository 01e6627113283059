"""RabbitMQ refuses messages: those of a queue that is full, or all of them, as an exchange, a queue or rights have changed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from amqp.exceptions import MessageNacked
from celery import signals
from kombu import Exchange, Queue

from celery_perpetual import Item, PerpetualOptions
from celery_perpetual.publishing.once import publish_once
from celery_perpetual.recovery import full_queues
from celery_perpetual.recovery.resend import Resender
from tests.support import wait_until
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.watched_app import WatchedApp


def full(name: str, most: int) -> Queue:
    """A queue that takes no more than so many messages, and says so."""
    return Queue(name, queue_arguments={"x-max-length": most, "x-overflow": "reject-publish"})


@pytest.fixture
def rabbit(rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp]) -> Callable[..., WatchedApp]:
    """Make apps whose broker is RabbitMQ."""

    def make(**config: Any) -> WatchedApp:
        return watched_app(broker_url=rabbitmq_url, perpetual_store_url=redis_url, **config)

    return make


def received(app: Celery, queue: str = "celery") -> list[str]:
    """Take all messages out of a queue; their task ids."""
    with app.connection_for_read() as connection:
        channel, ids = connection.channel(), []
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            ids.append(message.headers["id"])
        return ids


def test_a_queue_that_is_smaller_than_a_chunk_gets_each_message_once(rabbit: Callable[..., WatchedApp]) -> None:
    """The batch is published as far as the queue takes it, and the relay goes on there, whenever there is room."""
    one = rabbit(task_queues=[full("celery", 300)])
    publisher = one.perpetual.runner.publisher

    outcome = one.poll([Item((n,), key=False) for n in range(700)])

    arrived = received(one.app)
    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == "300"
    assert publisher.relay() == 300
    arrived += received(one.app)
    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == "600"
    assert publisher.outbox.put_off == {}
    publisher.outbox.make_due(outcome.poll_id, ValueError("full"))
    assert publisher.relay() == 100
    assert arrived + received(one.app) == outcome.task_ids
    assert one.redis.exists("perpetual:outbox") == 0


def test_a_batch_of_which_nothing_is_accepted_is_put_off(rabbit: Callable[..., WatchedApp]) -> None:
    """Its queue was full before: nothing of it counts as published, and the finding says why."""
    one = rabbit(task_queues=[full("celery", 3)])
    before = one.poll([Item((n,), key=False) for n in range(3)])
    publisher = one.perpetual.runner.publisher

    outcome = one.poll([Item((n,), key=False) for n in range(10)], name="app.other")

    assert one.redis.hget(f"perpetual:p:{outcome.poll_id}", "pub") == "0"
    assert publisher.relay() == 0
    assert "refused 10 messages" in publisher.outbox.put_off[outcome.poll_id]
    assert received(one.app) == before.task_ids


@pytest.mark.parametrize("lease", [True, False])
def test_one_full_queue_holds_up_no_other(
    rabbit: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch, *, lease: bool
) -> None:
    """Messages that the others accept are not sent again; those that were refused follow when there is room."""
    monkeypatch.setattr(full_queues, "PATIENCE", 0.3)
    one = rabbit(task_queues=[full("full", 40), Queue("free")])
    queues = ("full", "free")

    outcome = one.poll([Item((n,), key=False, queue=queues[n % 2]) for n in range(200)], lease=lease)

    assert received(one.app, "free") == outcome.task_ids[1::2]
    assert one.redis.exists("perpetual:outbox") == 0
    arrived = received(one.app, "full")
    assert 40 <= len(arrived) < 100

    def all_arrived() -> bool:
        one.perpetual.cycle()
        arrived.extend(received(one.app, "full"))
        return len(arrived) >= 100

    wait_until(all_arrived, "what was refused arrives")
    assert sorted(arrived) == outcome.task_ids[::2]
    assert received(one.app, "free") == []
    assert one.redis.exists("perpetual:resend", "perpetual:parked") == 0
    assert one.redis.hget("perpetual:counters", "leases_lost") is None


def test_a_full_queue_is_left_alone_for_a_while(
    rabbit: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile others on the list are sent, however many wait before them."""
    monkeypatch.setattr(full_queues, "PATIENCE", 600.0)
    one = rabbit(task_queues=[full("full", 1), Queue("free")])
    queues = ("full", "free")
    outcome = one.poll([Item((n,), key=False, queue=queues[n % 2]) for n in range(20)])
    sent = received(one.app, "free")
    resender = Resender(one.app, one.perpetual.store, broker_is_redis=False)

    assert resender.send_all(limit=9) == 0
    received(one.app, "full")
    one.redis.zadd("perpetual:resend", {sent[0]: "+inf"})

    assert resender.send_all(limit=9) == 1
    assert received(one.app, "full") == []
    assert received(one.app, "free") == sent[:1]
    assert one.redis.zcard("perpetual:resend") == 9
    assert sent == outcome.task_ids[1::2]


def test_a_signature_that_is_refused_stays_on_its_list(rabbit: Callable[..., WatchedApp]) -> None:
    """That of `on_batch_done`, whose queue has no room: it is sent when there is."""
    one = rabbit(task_queues=[full("done", 1)])
    signature = one.app.signature("app.done", immutable=True, queue="done")

    def publish(task_id: str) -> None:
        publish_once(one.app, one.perpetual.store, "perpetual:batches", "batch", signature, task_id)

    publish("first")
    one.redis.zadd("perpetual:batches", {"batch": 1})

    with pytest.raises(MessageNacked):
        publish("second")

    assert one.redis.zcard("perpetual:batches") == 1
    assert received(one.app, "done") == ["first"]
    publish("second")
    assert one.redis.zcard("perpetual:batches") == 0
    assert received(one.app, "done") == ["second"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # so end the threads of the clock
def test_a_poll_that_is_refused_fails_at_once(rabbit: Callable[..., WatchedApp]) -> None:
    """The message of a poll that a worker evaluates: its unit backs off, and the outcome names the cause."""
    one = rabbit(task_queues=[full("celery", 1)])
    task = one.task([], perpetual_options=PerpetualOptions(poll_in="worker"))
    waits = task.delay().id
    clock = LeadingClock(one.perpetual)

    (outcome,) = clock.until_polled(task)

    assert (outcome.status, outcome.error_class) == ("failed", "degraded")
    assert "refused 1 message: is the queue full?" in str(outcome.error)
    assert received(one.app) == [waits]
    assert one.redis.hget("perpetual:u:perpetual:app.work", "claim") is None
    assert one.perpetual.nudge(task)

    def sent() -> list[str]:
        clock.turn()
        return received(one.app)

    (poll_message,) = wait_until(sent, "the poll is on its way")
    clock.close()
    assert poll_message != waits
    assert len(one.perpetual.polls(task)) == 1


def test_a_queue_that_is_there_with_other_arguments_parks_nothing(rabbit: Callable[..., WatchedApp]) -> None:
    """RabbitMQ closes the channel for each message that declares it: the relay sends them when that has ended."""
    one = rabbit()
    with one.app.connection_for_write() as connection:
        channel = connection.channel()
        channel.queue_declare("celery", durable=True, auto_delete=False, arguments={"x-queue-type": "quorum"})

        outcome = one.poll([Item((n,), key=False) for n in range(30)])

        assert list(one.perpetual.parked()) == []
        assert one.redis.zrange("perpetual:outbox", 0, -1) == [outcome.poll_id]
        assert one.perpetual.runner.publisher.relay() == 0
        assert "PRECONDITION_FAILED" in one.perpetual.runner.publisher.outbox.put_off[outcome.poll_id]
        channel.queue_delete("celery")
    one.perpetual.runner.publisher.outbox.make_due(outcome.poll_id, ValueError("full"))
    assert one.perpetual.runner.publisher.relay() == 30
    assert received(one.app) == outcome.task_ids


def test_items_whose_exchange_is_gone_hold_up_no_others(rabbit: Callable[..., WatchedApp]) -> None:
    """RabbitMQ closes the channel for each of them; after some tries the others of their kind are not tried."""
    one = rabbit()
    gone = [Item((n,), key=False, exchange="gone", routing_key="gone") for n in range(25)]

    outcome = one.poll([*gone, *(Item((n,), key=False) for n in range(5))])

    assert received(one.app) == outcome.task_ids[25:]
    assert {each.task_id for each in one.perpetual.parked()} == set(outcome.task_ids[:25])
    assert one.redis.exists("perpetual:outbox") == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"headers": {"note": "x" * 3_000_000}}, "its properties and headers have 3000"),
        ({"immediate": True}, "NOT_IMPLEMENTED"),
        ({"user_id": "somebody"}, "user_id"),
    ],
    ids=["headers longer than a frame", "what closes the connection", "what closes the channel"],
)
def test_one_item_that_the_broker_cannot_take_holds_up_no_other(
    rabbit: Callable[..., WatchedApp], options: dict[str, Any], said: str
) -> None:
    """It is parked with the broker's reason; the others of its chunk arrive, and nothing is left to relay."""
    one = rabbit()

    outcome = one.poll([Item((n,), key=False, **(options if n == 15 else {})) for n in range(30)])

    assert set(received(one.app)) == {*outcome.task_ids} - {outcome.task_ids[15]}
    (parked,) = one.perpetual.parked()
    assert parked.task_id == outcome.task_ids[15]
    assert said in str(parked.reason)
    assert one.redis.exists("perpetual:outbox") == 0


def test_a_long_repr_of_arguments_holds_up_no_other_item(rabbit: Callable[..., WatchedApp]) -> None:
    """Messages that are written many at once have headers of different lengths."""
    one = rabbit()
    one.app.amqp.argsrepr_maxsize = 300_000

    outcome = one.poll([Item((n * "x",), key=False) for n in (1, 200_000, 3, 4, 5)])

    assert set(received(one.app)) == {*outcome.task_ids} - {outcome.task_ids[1]}
    assert [each.task_id for each in one.perpetual.parked()] == [outcome.task_ids[1]]


def test_what_was_refused_for_a_moment_is_sent(rabbit: Callable[..., WatchedApp]) -> None:
    """The exchange is there again when the fourth item is tried by itself: the three before it are tried once more."""
    one, tries = rabbit(), Counter[str]()
    items = [Item((n,), key=False, exchange="late", routing_key="celery") for n in range(6)]

    def made(headers: dict[str, Any], **_: Any) -> None:
        tries[headers["id"]] += 1
        if headers["id"].endswith("3") and tries[headers["id"][:-1] + "0"] == 2:
            with one.app.connection_for_write() as connection:
                exchange = Exchange("late", "direct", channel=connection.default_channel)
                exchange.declare()
                Queue("celery", exchange, "celery", channel=connection.default_channel).declare()

    signals.before_task_publish.connect(made, weak=False)
    try:
        outcome = one.poll(items)
    finally:
        signals.before_task_publish.disconnect(made)

    assert set(received(one.app)) == set(outcome.task_ids)
    assert list(one.perpetual.parked()) == []
    assert one.redis.exists("perpetual:outbox") == 0
