"""A message that a dead worker had received is put back as another delivery."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.commands import Load


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = Celery("put_back", broker=redis_url, set_as_current=False)
    yield app
    app.close()


def receive(connection: Any) -> Any:
    """What a worker does on receipt: the message is in the broker's books until it is acknowledged."""
    queue = connection.SimpleQueue("celery")
    return queue.get(timeout=5)


def test_a_message_that_kombu_puts_back_is_seen_to_be_another_delivery(app: Celery) -> None:
    """It keeps its tag: a worker that stops gives it back, the next one receives it, and nobody has lost it."""
    app.send_task("work")
    capture = Capture(app)
    with app.connection_for_read() as stopping:
        tag = receive(stopping).delivery_tag
        before = capture.received()
    with app.connection_for_read() as living:
        assert receive(living).delivery_tag == tag
        after = capture.received()
        capture.close()

    assert before.keys() == after.keys() == {tag}
    assert before[tag] < after[tag]


def test_its_receiver_keeps_it_when_the_old_delivery_is_struck_off(app: Celery) -> None:
    """Somebody receives it between the two steps; the broker has it in its books for that one."""
    sent = app.send_task("work")
    with app.connection_for_read() as dead, app.connection_for_read() as living:
        first = receive(dead)
        capture = Capture(app)
        assert capture.received().keys() == {first.delivery_tag}

        commands = capture.restored(first.delivery_tag)
        assert commands is not None
        load = Load()
        load.add(commands)
        capture.run(load, front=True)
        second = receive(living)
        capture.settle(first.delivery_tag)

        assert second.headers["id"] == sent.id
        assert second.headers["redelivered"]
        assert second.delivery_tag != first.delivery_tag
        assert capture.received().keys() == {second.delivery_tag}
        capture.close()
