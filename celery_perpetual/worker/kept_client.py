"""Keeps the client by which kombu notes each message that a worker receives, where the broker is Redis.

kombu makes a client object of redis-py for every message that it enters among the unacknowledged ones, and for every
message that it acknowledges. Making one takes a tenth of the time that a worker's main process has for a task. Such a
client is nothing but a view of its pool of connections, so one serves for all messages.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps
from kombu.transport.redis import Channel


class KeptClientStep(bootsteps.StartStopStep):
    """Lets the channel of the consumer keep its client, anew at every reconnect."""

    name = "perpetual-kept-client"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Once the consumer has its channel; before the first message comes."""
        channel = consumer.task_consumer.channel
        if isinstance(channel, Channel):
            _keep_client(channel)


def _keep_client(channel: Any) -> None:
    create = channel._create_client  # noqa: SLF001
    kept: Any = None

    def create_client(asynchronous: bool = False) -> Any:
        nonlocal kept
        if asynchronous:  # kombu keeps these itself, and gives them a connection of their own
            return create(asynchronous)
        # A channel that has lost its connections, or was forked, makes a new pool.
        if kept is None or kept.connection_pool is not channel.pool:
            kept = create()
        return kept

    channel._create_client = create_client  # noqa: SLF001
