"""Messages that workers have received and not acknowledged, in kombu's hash of all workers."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from kombu.utils.json import loads

from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.commands import Command
from celery_perpetual.broker.message_copy import Copy, from_message


class UnackedHash:
    """Reads the hash, and takes messages out of it. For one thread."""

    def __init__(self, channel: CapturingChannel) -> None:
        self._channel = channel
        self._unacked = f"{channel.prefix}{getattr(channel.kombu, 'unacked_key', '')}"
        self._index = f"{channel.prefix}{getattr(channel.kombu, 'unacked_index_key', '')}"

    def received(self) -> dict[str, float]:
        """Delivery tags of all messages, with when they were received.

        The time is of the receiving worker's clock, and good for one thing: kombu puts messages back under their tag,
        so another time means that it is another delivery.
        """
        with self._channel.client() as client, client.pipeline() as pipe:
            pipe.hkeys(self._unacked).zrange(self._index, 0, -1, withscores=True)
            tags, times = pipe.execute()
        known = dict(times)
        return {_text(tag): float(known.get(tag, 0.0)) for tag in tags}

    def received_of(self, tags: list[str]) -> dict[str, float]:
        """The same of some messages; those that are gone are left out."""
        with self._channel.client() as client:
            times = client.zmscore(self._index, tags)
        return {tag: float(at) for tag, at in zip(tags, times, strict=True) if at is not None}

    def copy(self, tag: str) -> Copy | None:
        """One message; None if it is not there."""
        found = self._read(tag)
        return None if found is None else from_message(self._channel.kombu.message_to_python(found[0]))

    def copies(self, tags: list[str]) -> dict[str, Copy]:
        """Several messages in one call, by tag; those that are gone, or are no messages of Celery, are left out."""
        with self._channel.client() as client:
            found = dict(zip(tags, client.hmget(self._unacked, tags), strict=True))
        read = {tag: self._copy_of(text) for tag, text in found.items() if text is not None}
        return {tag: copy for tag, copy in read.items() if copy is not None}

    def _copy_of(self, text: Any) -> Copy | None:
        try:
            payload, _, _ = loads(text)
            return from_message(self._channel.kombu.message_to_python(payload))
        except (ValueError, TypeError, KeyError, AttributeError):  # other programs may write into a broker
            return None

    def restoring(self, tag: str) -> list[Command] | None:
        """The commands that put one message back into its queue, as a redelivered one; None if it is not there.

        They do not take it out of the hash; those of :meth:`acknowledging` do. What is put back is another delivery,
        with a tag of its own.
        """
        found = self._read(tag)
        if found is None:
            return None
        payload, exchange, routing_key = found
        payload["headers"]["redelivered"] = payload["properties"]["delivery_info"]["redelivered"] = True
        payload["properties"]["delivery_tag"] = str(uuid4())
        return self._channel.put(exchange, routing_key, payload)

    def acknowledging(self, tag: str) -> list[Command]:
        """The commands that take one message out of the hash; harmless where that has been done."""
        return [Command("ZREM", self._index, tag), Command("HDEL", self._unacked, tag)]

    def _read(self, tag: str) -> Any:
        with self._channel.client() as client:
            found = client.hget(self._unacked, tag)
        return None if found is None else loads(found)


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
