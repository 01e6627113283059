"""Opening a consumer anew, on a broker in memory."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from kombu import Connection, Consumer, Exchange, Queue

from celery_perpetual.worker import wake


@pytest.fixture
def worker() -> Any:
    """A stand-in for a worker that consumes the queue ``a``, with the parts that the command needs."""
    with Connection("memory://") as connection:
        queue = Queue("a", Exchange("a", type="direct"), routing_key="a")
        task_consumer = Consumer(connection.channel(), [queue])
        task_consumer.consume()
        yield SimpleNamespace(
            connection=connection, task_consumer=task_consumer, connection_errors=connection.connection_errors,
            channel_errors=connection.channel_errors, app=SimpleNamespace(amqp=SimpleNamespace(queues={"a": queue})),
        )  # fmt: skip


def tags(worker: Any) -> dict[str, str]:
    return dict(worker.task_consumer._active_tags)  # Kombu shows them nowhere else


def test_wake_opens_the_consumer_under_another_tag(worker: Any) -> None:
    """The queue is consumed as before."""
    before = tags(worker)
    wake._open_anew(worker, "a")  # what the command has done later
    assert tags(worker).keys() == {"a"}
    assert tags(worker) != before


def test_one_whose_queue_cannot_be_declared_stays(worker: Any) -> None:
    """The broker has the queue otherwise than the app: nothing is cancelled, and the worker goes on."""
    worker.app.amqp.queues["a"] = Queue("a", Exchange("a", type="fanout"), routing_key="a")
    before = tags(worker)
    wake._open_anew(worker, "a")
    assert tags(worker) == before
