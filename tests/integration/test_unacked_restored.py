"""A message that a dead worker had received is put back as another delivery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.unacked import put_back
from celery_perpetual.broker.unacked_hash import UnackedHash


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("put_back", broker=redis_url, set_as_current=False)
    yield app
    app.close()


def receive(connection: Any) -> Any:
    """Receive a message as a worker does: it is unacked until it is acknowledged."""
    queue = connection.SimpleQueue("celery")
    return queue.get(timeout=5)


def test_a_message_that_kombu_puts_back_is_seen_to_be_another_delivery(app: Celery) -> None:
    """It keeps its tag: a worker that stops gives it back, the next one receives it, and nobody has lost it."""
    app.send_task("work")
    channel = CapturingChannel(app)
    unacked = UnackedHash(channel)
    with app.connection_for_read() as stopping:
        tag = receive(stopping).delivery_tag
        before = unacked.received()
    with app.connection_for_read() as living:
        assert receive(living).delivery_tag == tag
        after = unacked.received()
        channel.close()

    assert before.keys() == after.keys() == {tag}
    assert before[tag] < after[tag]


def test_its_receiver_keeps_it_when_the_old_delivery_is_acknowledged(app: Celery) -> None:
    """Somebody receives it between the two steps; it is in the unacked hash for that one."""
    sent = app.send_task("work")
    with app.connection_for_read() as dead, app.connection_for_read() as living:
        first = receive(dead)
        channel = CapturingChannel(app)
        unacked = UnackedHash(channel)
        assert unacked.received().keys() == {first.delivery_tag}

        commands = unacked.restoring(first.delivery_tag)
        assert commands is not None
        channel.run(BrokerCommands(commands), front=True)
        second = receive(living)
        channel.run(BrokerCommands(unacked.acknowledging(first.delivery_tag)))

        assert second.headers["id"] == sent.id
        assert second.headers["redelivered"]
        assert second.delivery_tag != first.delivery_tag
        assert unacked.received().keys() == {second.delivery_tag}
        channel.close()


def test_what_a_worker_puts_back_is_the_next_message_that_a_consumer_gets(app: Celery) -> None:
    """A message of a process that died before its task began overtakes what was sent after it."""
    first, later = app.send_task("work"), app.send_task("work")
    with app.connection_for_read() as broken, app.connection_for_read() as living:
        message = receive(broken)
        assert message.headers["id"] == first.id
        put_back(message, ())

        assert [receive(living).headers["id"] for _ in range(2)] == [first.id, later.id]
