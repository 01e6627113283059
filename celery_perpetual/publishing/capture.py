"""The broker commands of a message, without sending it.

Where the broker is the store's own Redis, messages go into the queue in the very script that commits them. Kombu
still does all the routing: a producer on a channel whose last step, the write to Redis, is kept instead of done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu.utils.json import dumps

if TYPE_CHECKING:
    from celery import Celery


class Command(NamedTuple):
    """One Redis command on one key."""

    name: str
    key: str
    value: str | bytes | int


class Capture:
    """A producer that hands over what it would have written. For one thread."""

    def __init__(self, app: Celery) -> None:
        self.connection = app.connection_for_write()
        channel: Any = self.connection.channel()
        channel._put, channel._put_fanout = self._put, self._put_fanout
        self._channel = channel
        self._commands: list[Command] = []
        self._prefix = getattr(channel, "global_keyprefix", None) or ""
        self.producer = app.amqp.Producer(channel, auto_declare=False)

    def commands(self, publish: Callable[[Any], None]) -> list[Command]:
        """The commands of everything that ``publish`` sends through the producer it is given."""
        self._commands = []
        publish(self.producer)
        return self._commands

    def close(self) -> None:
        """Close the connection that looked up the bindings."""
        self.connection.release()

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
