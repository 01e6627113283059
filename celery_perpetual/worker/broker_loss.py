"""Keeps a worker alive that loses its Redis broker while it holds unacknowledged messages.

Perpetual tasks are late-acked, so a busy worker always holds some. Celery 5.7 closes the broken connection twice; the
second time kombu wants to put the messages back over a transport that does not know its connection any more, and the
AttributeError ends the worker. Late acknowledgements on such a channel fail in the same way. And where the server has
become read-only or full, the error of an acknowledgement ends the worker too, unless it counts as a lost connection.
"""

from __future__ import annotations

from typing import Any

from celery import bootsteps


class SurviveBrokerLoss(bootsteps.StartStopStep):
    """Wraps the consumer's connection, anew at every reconnect."""

    name = "perpetual-survive-broker-loss"
    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, consumer: Any, **options: Any) -> None:
        """A Redis that refuses for now is as good as one that is away: Celery connects anew, and does not end."""
        super().__init__(consumer, **options)
        if getattr(consumer.conninfo.get_transport_cls(), "driver_type", None) == "redis":
            consumer.connection_errors += consumer.channel_errors

    def start(self, consumer: Any) -> None:
        """Let the transport keep its connection, and let a channel that is closed twice not wait for its reply."""
        connection, transport = consumer.connection, consumer.connection.transport
        if getattr(transport, "driver_type", None) != "redis":
            return
        collect = connection.collect

        def collect_and_keep(socket_timeout: Any = None) -> None:
            try:
                collect(socket_timeout)
            finally:
                for channel in list(transport.channels or ()):
                    channel._in_poll = False  # noqa: SLF001  # its reply went with the connection
                transport.client = connection

        connection.collect = collect_and_keep
