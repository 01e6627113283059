"""Where messages went: exchange, routing key and priority, on record with the batch.

Routers and ``apply_async`` are the user's code: they look at arguments, at the time, at databases, and may have effects
of their own. They are asked once per message, when it is published. Who looks for a message later, or sends it again,
reads the record.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.broker.capturing import CapturingChannel


class Destination(NamedTuple):
    """Where one message went."""

    exchange: str
    """Name of the exchange; "" for the default one, whose routing keys are names of queues."""
    routing_key: str
    priority: int | None = None

    def lists(self, channel: CapturingChannel) -> frozenset[str]:
        """The lists of a Redis broker that messages of this destination are in; none for a fan-out exchange."""
        kombu = channel.kombu
        if self.exchange and kombu.typeof(self.exchange).type == "fanout":
            return frozenset()
        properties = {} if self.priority is None else {"priority": self.priority}
        priority = kombu._get_message_priority({"properties": properties}, reverse=False)
        queues = kombu._lookup(self.exchange, self.routing_key)
        return frozenset(f"{channel.prefix}{kombu._q_for_pri(queue, priority)}" for queue in queues)

    def to_json(self) -> str:
        """As text for the store."""
        return json.dumps(self)


class Destinations:
    """Where the items of one chunk went."""

    def __init__(self) -> None:
        self._indexes: dict[Destination, list[int]] = {}

    def note(self, destination: Destination | None, indexes: Iterable[int]) -> None:
        """Remember it for items, given by their index in the batch; None is not remembered."""
        if destination is not None:
            self._indexes.setdefault(destination, []).extend(indexes)

    def extend(self, other: Destinations) -> None:
        """Add what another one remembers."""
        for destination, indexes in other._indexes.items():  # one class
            self.note(destination, indexes)

    def to_json(self) -> str:
        """As text for the store; "" for nothing."""
        rows = [[*destination, _ranges(sorted(set(indexes)))] for destination, indexes in self._indexes.items()]
        return json.dumps(rows) if rows else ""


def by_index(text: bytes | str | None) -> Mapping[int, Destination]:
    """Destinations of the items of one chunk, by index in the batch."""
    found: dict[int, Destination] = {}
    for exchange, routing_key, priority, ranges in json.loads(text) if text else ():
        destination = Destination(exchange, routing_key, priority)
        for each in ranges.split(","):
            first, _, last = each.partition("-")
            found.update(dict.fromkeys(range(int(first), int(last or first) + 1), destination))
    return found


def from_json(text: bytes | str) -> Destination:
    """One destination from the store."""
    return Destination(*json.loads(text))


def observe(producer: Any, note: Callable[[str, Destination], None]) -> None:
    """Have a kombu producer report the task id and the destination of every message that it publishes."""
    usual = producer._publish

    def publish(
        body: Any, priority: Any, content_type: Any, content_encoding: Any, headers: Any, properties: Any,
        routing_key: Any, mandatory: Any, immediate: Any, exchange: Any, *more: Any, **options: Any,
    ) -> Any:  # fmt: skip
        note(str((headers or {}).get("id")), Destination(exchange or "", routing_key or "", priority))
        return usual(
            body, priority, content_type, content_encoding, headers, properties, routing_key, mandatory, immediate,
            exchange, *more, **options,
        )  # fmt: skip

    producer._publish = publish


def _ranges(indexes: list[int]) -> str:
    """Ascending numbers as ``0-4,7``."""
    if indexes[-1] - indexes[0] == len(indexes) - 1 > 0:
        return f"{indexes[0]}-{indexes[-1]}"
    parts: list[list[int]] = []
    for index in indexes:
        if parts and parts[-1][1] == index - 1:
            parts[-1][1] = index
        else:
            parts.append([index, index])
    return ",".join(f"{first}-{last}" if first != last else str(first) for first, last in parts)
