"""Messages that RabbitMQ holds back until their time, as an app has quorum queues: those that are lost are found then."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from kombu import Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    bind_queue_to_native_delayed_delivery_exchange,
    calculate_routing_key,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from celery_perpetual import Item
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.broker.message_copy import from_publish
from celery_perpetual.broker.native_delay import DELAYED, DELIVERY, at_once, held_back
from celery_perpetual.broker.queue_sizes import queues_of
from celery_perpetual.health.queues import waiting_items
from celery_perpetual.health.reading import Reading
from celery_perpetual.leases.execution import Execution
from celery_perpetual.recovery.missing import MissingMessages
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.scripts import script
from tests.support import wait_until
from tests.support.pretending import report

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


@pytest.fixture
def one(rabbitmq_url: str, redis_url: str, watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    """An app with a quorum queue, and the exchanges that its workers would make."""
    queue = Queue("later", Exchange("later", type="topic"), "later", queue_arguments={"x-queue-type": "quorum"})
    found = watched_app(
        broker_url=rabbitmq_url, perpetual_store_url=redis_url, task_queues=[queue], task_default_queue="later",
        task_default_exchange="later", task_default_exchange_type="topic", task_default_routing_key="later",
        perpetual_lease_ttl=1.5, perpetual_cycle_interval=0.3,
    )  # fmt: skip
    with found.app.connection_for_write() as connection:
        declare_native_delayed_delivery_exchanges_and_queues(connection, "classic")
        queue.bind(connection.channel()).declare()
        bind_queue_to_native_delayed_delivery_exchange(connection, queue)
    return found


def received(one: WatchedApp) -> list[Any]:
    """Take all messages out of the queue."""
    found = []
    with one.app.connection_for_read() as connection:
        channel: Any = connection.channel()
        while (message := channel.basic_get("later", no_ack=True)) is not None:
            found.append(message)
    return found


def lost_retry(one: WatchedApp, task: Any, task_id: str) -> None:
    """Let an item have sent a retry that is due in a second, of which the broker has nothing."""
    perpetual, execution = one.perpetual, Execution(task_id=task_id, nonce=uuid4().hex)
    perpetual.grants.be_a_worker("host")
    assert perpetual.grants.start(task, execution, {}) == ""
    to = Destination(DELAYED, calculate_routing_key(1, "later"))
    eta = (one.app.now() + timedelta(seconds=1)).isoformat()
    headers = {"id": task_id, "task": task.name, "eta": eta, "retries": 1, "replaced_task_nesting": 0}
    copy = from_publish([[2], {}, {}], headers, {}, to.exchange, to.routing_key, "json").to_json()
    batch = perpetual.store.keys.poll(f"{task_id[:28]}ffffffff")
    assert script("note_successor")(
        perpetual.store, batch=batch, id=task_id, nonce=execution.nonce, cause="wait", copy=copy, index=2,
        destination=to.to_json(),
    )  # fmt: skip
    assert perpetual.grants.release(task_id, execution.nonce, "wait", keeps=True) == "released"


def test_what_is_lost_behind_its_delay_is_sent_again_without_one(one: WatchedApp) -> None:
    """A first message, and a retry; one that is held back still is not missing, and is no item that waits."""
    task = one.task([Item((0,), key=0, countdown=2), Item((1,), key=1, countdown=900), Item((2,), key=2)])
    purged, held, retried = one.perpetual.poll(task).task_ids
    lost_retry(one, task, retried)
    came = list[Any]()
    wait_until(lambda: came.extend(received(one)) or len(came) == 2, "the delay of the first is over")
    assert {message.headers["id"] for message in came} == {purged, retried}
    report(one.perpetual, queues=["later"])
    waits = waiting_items(Reading(one.perpetual))
    assert {name: each.items for name, each in waits.items()} == {"later": 1}

    missing = MissingMessages(one.app, one.perpetual.grants)

    def all_found() -> bool:
        report(one.perpetual, queues=["later"])
        missing.once(0, ())
        return one.redis.zcard("perpetual:resend") == 2

    wait_until(all_found, "both are found")
    assert set(one.redis.zrange("perpetual:resend", 0, -1)) == {purged, retried}
    assert Resender(one.app, one.perpetual.store, broker_is_redis=False).send_all() == 2
    again = list[Any]()
    wait_until(lambda: again.extend(received(one)) or len(again) >= 2, "both are in their queue")
    assert Counter(message.headers["id"] for message in again) == {purged: 1, retried: 1}
    assert {message.headers["id"]: message.headers["retries"] for message in again} == {purged: 0, retried: 1}
    assert {message.delivery_info["exchange"] for message in again} == {DELIVERY}
    assert one.redis.hget("perpetual:states", held) is None


def test_the_delay_and_the_queues_of_a_destination(one: WatchedApp) -> None:
    """Also where an older kombu has put one delay before another; anything else is not held back."""
    key = calculate_routing_key(90, "later")
    for routing_key in (key, f"{calculate_routing_key(60, 'x').removesuffix('x')}{key}"):
        to = Destination(DELAYED, routing_key, 3)
        assert queues_of(one.app, to) == {"later"}
    assert held_back(Destination(DELAYED, key)) == 90_000
    assert at_once(Destination(DELAYED, key, 3)) == Destination(DELIVERY, key, 3)
    assert queues_of(one.app, Destination(DELAYED, calculate_routing_key(90, "other"))) == frozenset()
    for other in (Destination("later", key), Destination(DELAYED, "later"), Destination("", "later")):
        assert (held_back(other), at_once(other)) == (0, other)
