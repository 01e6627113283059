"""Task messages as they lie in a broker, read without the package under test."""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu import Connection

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis


class Message(NamedTuple):
    """One task message."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    headers: Mapping[str, Any]

    @property
    def pid(self) -> int:
        """The process that built it."""
        return int(self.headers["origin"].removeprefix("gen").partition("@")[0])

    @property
    def poll(self) -> str:
        """Return the beginning that all ids of its poll share."""
        return self.id[:28]

    @property
    def claimed(self) -> float:
        """When its poll was claimed, in seconds of the store's clock: the first 48 bits of the id."""
        return int(self.id[:8] + self.id[9:13], 16) / 1000


def _message(headers: Mapping[str, Any], body: bytes) -> Message:
    args, kwargs, _embedded = json.loads(body)
    return Message(headers["id"], headers["task"], args, kwargs, headers)


def queued(redis: redis.Redis, queue: str = "celery") -> list[Message]:
    """Read a Redis queue without taking anything out of it, oldest first."""
    found = [json.loads(text) for text in redis.lrange(queue, 0, -1)]
    return [_message(entry["headers"], b64decode(entry["body"])) for entry in reversed(found)]


def taken(url: str, queue: str = "celery") -> list[Message]:
    """Take everything out of a queue of any broker, oldest first."""
    messages = []
    with Connection(url) as connection, connection.channel() as channel:
        while (found := channel.basic_get(queue, no_ack=True)) is not None:
            messages.append(_message(found.headers, found.body.encode() if isinstance(found.body, str) else found.body))
    return messages
