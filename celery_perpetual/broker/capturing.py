"""A kombu channel to a Redis broker that hands over what it would write, instead of writing it.

Kombu still does all the routing: only the last step of its channel, the write to Redis, is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps
from redis import Redis

from celery_perpetual.broker.commands import BrokerCommands, Command
from celery_perpetual.broker.questions import connection_for_questions

if TYPE_CHECKING:
    from celery import Celery


class CapturingChannel:
    """A connection to the app's broker and a channel on it. For one thread."""

    def __init__(self, app: Celery) -> None:
        self._connection = connection_for_questions(app)
        channel: Any = self._connection.channel()
        channel._put, channel._put_fanout = self._put, self._put_fanout
        channel._next_delivery_tag = self._next_tag(channel._next_delivery_tag)
        self.kombu = channel
        self.prefix: str = getattr(channel, "global_keyprefix", None) or ""
        """The beginning of all names of keys."""
        self._commands: list[Command] = []
        self._tag: str | None = None

    def capture(self, publish: Callable[[], Any], tag: str | None = None) -> list[Command]:
        """The commands of everything that ``publish`` publishes through this channel.

        Args:
            tag: the delivery tag of the messages, instead of a random one.

        Raises:
            Exception: what ``publish`` raises.
        """
        self._commands, self._tag = [], tag
        publish()
        return self._commands

    def put(self, exchange: str, routing_key: str, payload: Any) -> list[Command]:
        """The commands that put a whole message, as kombu keeps it, into the queues behind an exchange."""
        self._commands = []
        for queue in self.kombu._lookup(exchange, routing_key):
            self._put(queue, payload)
        return self._commands

    def run(self, commands: BrokerCommands, *, front: bool = False) -> None:
        """Run commands, all or none.

        Args:
            front: the messages are the next ones that a consumer gets, not the last.
        """
        with self.client() as client, client.pipeline() as pipe:
            push = pipe.rpush if front else pipe.lpush
            for key, messages in commands.pushes.items():
                push(key, *messages)
            for name, key, value in commands.others:
                pipe.execute_command(name, key, value)
            pipe.execute()

    @contextmanager
    def client(self) -> Iterator[Any]:
        """A client that takes whole names: kombu's own puts a ``global_keyprefix`` before the keys of some commands."""
        with self.kombu.conn_or_acquire() as client:
            yield Redis(connection_pool=client.connection_pool)

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()

    def _next_tag(self, usual: Any) -> Any:
        return lambda: self._tag or usual()

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        channel = self.kombu
        priority = channel._get_message_priority(message, reverse=False)
        self._add("LPUSH", channel._q_for_pri(queue, priority), dumps(message))
        expires = getattr(channel, "_expires", None) or {}
        if queue in expires:
            for step in channel.priority_steps:
                self._add("PEXPIRE", channel._q_for_pri(queue, step), expires[queue])

    def _put_fanout(self, exchange: str, message: Any, routing_key: str, **_: Any) -> None:
        channel = self.kombu
        topics = getattr(channel, "_get_publish_topics", lambda *at: [channel._get_publish_topic(*at)])
        for topic in topics(exchange, routing_key):
            self._add("PUBLISH", topic, dumps(message))

    def _add(self, name: str, key: str, value: str | int) -> None:
        self._commands.append(Command(name, f"{self.prefix}{key}", value))
