"""The broker commands of a message, without sending it.

Where the broker is Redis, messages go into their queues by hundreds, and into the store's own Redis in the very script
that commits them. Kombu still does all the routing: a producer on a channel whose last step, the write to Redis, is
kept instead of done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps

from celery_perpetual.ledger import Record
from celery_perpetual.publishing.load import Command, Load
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.sender import Aftermath, QuietSender

if TYPE_CHECKING:
    from celery import Celery


class Capture:
    """A producer that hands over what it would have written. For one thread."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.connection = app.connection_for_write()
        channel: Any = self.connection.channel()
        channel._put, channel._put_fanout = self._put, self._put_fanout
        channel._next_delivery_tag = self._next_tag(channel._next_delivery_tag)
        self._channel = channel
        self._commands: list[Command] = []
        self._tag: str | None = None
        self._prefix = getattr(channel, "global_keyprefix", None) or ""
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._sender = QuietSender(app)

    def commands(
        self, record: Record, task_id: str, aftermath: Aftermath | None = None, tag: str | None = None
    ) -> list[Command]:
        """The commands of one message.

        Args:
            aftermath: gets what is to be told once they have run; without it nobody is told.
            tag: the delivery tag, instead of a random one.
        """
        self._commands, self._tag = [], tag
        self._sender.aftermath = aftermath or Aftermath()
        send(self.app, self._producer, record, task_id, self._sender)
        return self._commands

    def run(self, load: Load) -> None:
        """Run commands where the broker is not the store."""
        start = len(self._prefix)  # the channel's client puts it before a key itself
        with self._channel.conn_or_acquire() as client:
            for key, values in load.pushes.items():
                client.lpush(key[start:], *values)
            for name, key, value in load.others:
                client.execute_command(name, key[start:], value)

    def close(self) -> None:
        """Close the connection that looked up the bindings."""
        self.connection.release()

    def _next_tag(self, usual: Any) -> Any:
        return lambda: self._tag or usual()

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        channel = self._channel
        priority = channel._get_message_priority(message, reverse=False)
        self._add("LPUSH", channel._q_for_pri(queue, priority), dumps(message))
        expires = getattr(channel, "_expires", None) or {}
        if queue in expires:
            for step in channel.priority_steps:
                self._add("PEXPIRE", channel._q_for_pri(queue, step), expires[queue])

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_: Any) -> None:
        channel = self._channel
        topics = getattr(channel, "_get_publish_topics", lambda *at: [channel._get_publish_topic(*at)])
        for topic in topics(exchange, routing_key):
            self._add("PUBLISH", topic, dumps(message))

    def _add(self, name: str, key: str, value: str | int) -> None:
        self._commands.append(Command(name, f"{self._prefix}{key}", value))
