"""The broker commands of a message, without sending it.

Where the broker is Redis, messages go into their queues by hundreds, and into the store's own Redis in the very script
that commits them. Kombu still does all the routing: a producer on a channel whose last step, the write to Redis, is
kept instead of done.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from kombu.utils.json import dumps, loads
from redis import Redis

from celery_perpetual.broker.message_copy import Copy, from_message, publish_copy
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.ledger.record import Record
from celery_perpetual.publishing.commands import Command, Load
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.sender import AfterPublish, QuietSender

if TYPE_CHECKING:
    from celery import Celery


#: How many messages at the front of a list are looked at.
NEAR_THE_FRONT = 20


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
        self._unacked = f"{self._prefix}{getattr(channel, 'unacked_key', '')}"
        self._unacked_index = f"{self._prefix}{getattr(channel, 'unacked_index_key', '')}"
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._sender = QuietSender(app)

    def commands(
        self, record: Record, task_id: str, after_publish: AfterPublish | None = None, tag: str | None = None
    ) -> list[Command]:
        """The commands of one message.

        Args:
            after_publish: gets what is to be told once they have run; without it nobody is told.
            tag: the delivery tag, instead of a random one.
        """
        self._commands, self._tag = [], tag
        self._sender.after_publish = after_publish or AfterPublish()
        send(self.app, self._producer, record, task_id, self._sender)
        return self._commands

    def copied(self, copy: Copy) -> list[Command]:
        """The commands that send a message once more, as it was received."""
        self._commands, self._tag = [], None
        publish_copy(self._producer, copy)
        return self._commands

    def received(self) -> dict[str, float]:
        """Delivery tags of everything that was received and not acknowledged, with when that was.

        The time is of the clock of whoever received it, and good for one thing: kombu puts messages back under their
        tag, so another time means that it is another delivery.
        """
        with self._client() as client, client.pipeline() as pipe:
            pipe.hkeys(self._unacked).zrange(self._unacked_index, 0, -1, withscores=True)
            tags, times = pipe.execute()
        known = dict(times)
        return {_text(tag): float(known.get(tag, 0.0)) for tag in tags}

    def border(self, key: str) -> int | None:
        """When the oldest message of a list was published, at the latest: ms of the store's time, by its id.

        None where the list is empty, 0 where nothing can be said. What was put back stands at the front, whatever its
        age, and is passed over.
        """
        with self._client() as client:
            oldest = client.lrange(key, -NEAR_THE_FRONT, -1)
        if not oldest:
            return None
        for message in reversed(oldest):
            headers = loads(message).get("headers") or {}
            if not headers.get("redelivered") and parse_item_id(str(headers.get("id"))) is not None:
                return int(str(headers["id"]).replace("-", "")[:12], 16)
        return 0

    def copy_of(self, tag: str) -> Copy | None:
        """A message that was received and not acknowledged; None if it is not there."""
        with self._client() as client:
            found = client.hget(self._unacked, tag)
        return None if found is None else from_message(self._channel.message_to_python(loads(found)[0]))

    def id_of(self, tag: str) -> str:
        """Id of the task whose message was received and not acknowledged; "" if it is not there any more."""
        copy = self.copy_of(tag)
        return "" if copy is None else str(copy.headers.get("id"))

    def restored(self, tag: str) -> list[Command] | None:
        """The commands that put a message back that somebody received and did not acknowledge; None if it is not there.

        They do not take it out of the broker's books; :meth:`settle` does. What is put back is another delivery, with a
        tag of its own: whoever receives it before the old one is struck off keeps it.
        """
        with self._client() as client:
            found = client.hget(self._unacked, tag)
        if found is None:
            return None
        payload, exchange, routing_key = loads(found)
        payload["headers"]["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        payload["properties"]["delivery_tag"] = str(uuid4())
        self._commands = []
        for queue in self._channel._lookup(exchange, routing_key):
            self._put(queue, payload)
        return self._commands

    def settle(self, tag: str) -> None:
        """Strike a message off the broker's books."""
        with self._client() as client, client.pipeline() as pipe:
            pipe.zrem(self._unacked_index, tag).hdel(self._unacked, tag).execute()

    def run(self, load: Load, *, front: bool = False) -> None:
        """Run commands where the broker is not the store."""
        with self._client() as client:
            push = client.rpush if front else client.lpush
            for key, values in load.pushes.items():
                push(key, *values)
            for name, key, value in load.others:
                client.execute_command(name, key, value)

    def close(self) -> None:
        """Close the connection that looked up the bindings."""
        self.connection.release()

    @contextmanager
    def _client(self) -> Iterator[Any]:
        """A client that takes whole names: kombu's own puts a ``global_keyprefix`` before the keys of some commands."""
        with self._channel.conn_or_acquire() as client:
            yield Redis(connection_pool=client.connection_pool)

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


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
