"""How many messages wait in the queues of a broker that is not Redis.

Such a broker does not show its messages: it says whether a queue is there, and how many of its messages no consumer has
been sent. So a message has surely left a queue that is not there or is empty. It has also left a queue from which a
worker has received a message that was published later, as queues are first in, first out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from kombu.transport.virtual.exchange import STANDARD_EXCHANGE_TYPES

from celery_perpetual.broker.native_delay import held_back
from celery_perpetual.broker.questions import connection_for_questions, is_not_found

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.broker.destinations import Destination


#: The name of an unknown place begins with this: see :func:`place_of`.
UNKNOWN = "exchange "


class QueueSizes:
    """Sizes of queues, each asked for once. For one thread and one moment."""

    def __init__(self, app: Celery, newest: Mapping[Destination, int], unread: Collection[str]) -> None:
        """Ask nothing yet.

        Args:
            app: it knows which queues an exchange leads to.
            newest: what workers have received last of each destination: since when it existed, ms of the store's time.
            unread: queues of which a worker may have been sent messages that it has not read.
        """
        self._app = app
        self._newest = newest
        self._unread = unread
        self._connection: Any = None
        self._sizes: dict[str, int | None] = {}

    def are_younger(self, destination: Destination, at: int) -> bool:
        """Whether every message of a destination was published after ``at`` (ms), or none is there."""
        return self._newest.get(destination, 0) > at or self.are_empty(destination)

    def are_empty(self, destination: Destination) -> bool:
        """Whether no message of a destination is there; False where the queue is not known, or not all is read."""
        queues = queues_of(self._app, destination)
        return bool(queues) and queues.isdisjoint(self._unread) and all(self._size(queue) == 0 for queue in queues)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.release()

    def _size(self, queue: str) -> int | None:
        if queue not in self._sizes:
            self._connection = self._connection or connection_for_questions(self._app)
            self._sizes[queue] = size_of(self._connection, queue)
        return self._sizes[queue]


def size_of(connection: Any, queue: str) -> int | None:
    """How many messages of a queue no consumer has been sent; 0 if there is no such queue, None if it is not said."""
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(queue=queue, passive=True).message_count)
    except connection.channel_errors as error:
        return 0 if is_not_found(error) else None


def ensure_queue(app: Celery, connection: Any, destination: Destination) -> None:
    """Make the queue that a message went to by its name, if it is gone: it would take no message any more.

    It is made as Celery makes a queue that a message is routed to and that its settings do not have.
    """
    queues: Any = app.amqp.queues
    if destination.exchange or not queues.create_missing:
        return
    name = destination.routing_key
    try:
        with connection.channel() as channel:
            channel.queue_declare(queue=name, passive=True)
    except connection.channel_errors as error:
        if is_not_found(error):
            queue = dict.get(queues, name) or queues.new_missing(name)
            with connection.channel() as channel:
                queue(channel).declare()


def queues_of(app: Celery, destination: Destination) -> frozenset[str]:
    """The queues of a destination, as far as the app knows them."""
    if not destination.exchange:
        return frozenset((destination.routing_key,))
    leads_to = _gets_in_the_end if held_back(destination) else _leads_to
    queues: Any = app.amqp.queues
    return frozenset(queue.name for queue in list(queues.values()) if leads_to(queue, destination))


def place_of(app: Celery, destination: Destination) -> str:
    """The name of the place of a message: its queue, the first of several; its exchange where the app knows none."""
    known = queues_of(app, destination)
    return min(known) if known else f"{UNKNOWN}{destination.exchange!r}, routing key {destination.routing_key!r}"


def queues_with_known_bindings(app: Celery) -> frozenset[str]:
    """The queues of the settings of which the app knows what leads there.

    To the others a message may come from a place that is unknown: how an exchange of another kind routes (delayed,
    consistent hash, headers), and when, only the broker knows.
    """
    queues: Any = app.amqp.queues
    return frozenset(
        queue.name
        for queue in list(queues.values())
        if all(exchange.type in STANDARD_EXCHANGE_TYPES for exchange, _ in _bindings(queue))
    )


def _bindings(queue: Any) -> list[tuple[Any, str | None]]:
    bindings = [(queue.exchange, queue.routing_key), *((each.exchange, each.routing_key) for each in queue.bindings)]
    return [(exchange, key) for exchange, key in bindings if exchange is not None]


def _leads_to(queue: Any, destination: Destination) -> bool:
    return any(
        exchange.name == destination.exchange and _matches(exchange.type, key, destination)
        for exchange, key in _bindings(queue)
    )


def _gets_in_the_end(queue: Any, destination: Destination) -> bool:
    """Whether a queue gets messages that RabbitMQ holds back; as kombu binds queues to the exchange that does so."""
    return any(
        exchange.type != "direct" and _matches("topic", key if key.startswith("#") else f"#.{key}", destination)
        for exchange, key in _bindings(queue)
        if key
    )


def _matches(exchange_type: str, binding_key: str | None, destination: Destination) -> bool:
    kind = STANDARD_EXCHANGE_TYPES.get(exchange_type)
    if kind is None:
        return False
    exchange = kind(None)
    table: Any = [exchange.prepare_bind("queue", destination.exchange, binding_key or "", None)]
    return bool(exchange.lookup(table, destination.exchange, destination.routing_key, None))
