"""Ways to a broker that is not the store: each brings a chunk of messages there and returns when they are safe.

A transport raises for a chunk that it could not bring, or that it may not have brought; the relay sends the whole chunk
again, under the same ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from ssl import SSLSocket
from typing import TYPE_CHECKING, Any, Protocol

from amqp import Channel as AmqpChannel
from celery import signals

from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.destinations import Destination, observe
from celery_perpetual.broker.questions import on_any_broker
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.builder import Builder, Messages
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.confirmed import Confirmed
from celery_perpetual.publishing.message import has_own_sender, send
from celery_perpetual.publishing.sender import QuietSender
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.store.address import is_redis

if TYPE_CHECKING:
    from celery import Celery

#: A broker that reads nothing, or answers nothing, for this long is left to the relay.
LONGEST_WAIT = 30


class Transport(Protocol):
    """Brings messages of one poll to the broker. For one thread."""

    def publish(self, indexed: IndexedItems) -> Messages:
        """Bring the messages of one chunk; returns what is due once the ledger knows, and where they went."""


class ToRedis:
    """To a Redis that is not the store, by variadic pushes."""

    def __init__(self, app: Celery, capture: Capture, poll_id: str) -> None:
        self._capture = capture
        self._builder = Builder(app, capture, poll_id)

    def publish(self, indexed: IndexedItems) -> Messages:
        """Push the chunk."""
        messages = self._builder.build(indexed)
        self._capture.channel.run(messages.commands)
        return messages._replace(commands=BrokerCommands())


class ByKombu:
    """To any broker, message by message, in Kombu's own batches where it has them."""

    def __init__(self, app: Celery, channel: Any, poll_id: str) -> None:
        self._app = app
        self._poll_id = poll_id
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._destinations: dict[str, Destination] = {}
        observe(self._producer, self._destinations.__setitem__)
        self._sender = QuietSender(app)

    def publish(self, indexed: IndexedItems) -> Messages:
        """Publish the chunk."""
        messages = Messages.none()
        self._sender.after_publish = messages.after_publish
        self._destinations.clear()
        with self._batch(indexed):
            for index, item in indexed:
                send(self._app, self._producer, opened(item), item_id(self._poll_id, index), self._sender)
        for index, _ in indexed:
            messages.destinations.note(self._destinations.get(item_id(self._poll_id, index)), (index,))
        return messages

    def _batch(self, indexed: IndexedItems) -> Any:
        """A batch is written at its end, so it is not for senders that send signals of the publish at once."""
        batch = getattr(self._producer, "batch", None)
        own = any(has_own_sender(self._app.tasks.get(name)) for name in {item.task for _, item in indexed})
        if batch is None or (own and signals.after_task_publish.receivers):
            return nullcontext()
        return batch(len(indexed))


@contextmanager
def open_transport(app: Celery, poll_id: str, items: Sequence[CheckedItem], *, one_by_one: bool) -> Iterator[Transport]:
    """The best transport to the app's broker.

    Args:
        items: of the whole poll, or none where they are not at hand.
        one_by_one: tasks with an ``apply_async`` of their own are among the items: they publish themselves.

    Raises:
        kombu.exceptions.OperationalError: the broker does not answer.
    """
    conf: Any = app.conf
    if isinstance(conf.broker_write_url, str) and is_redis(conf.broker_write_url) and not one_by_one:
        with closing(Capture(app)) as capture:
            yield ToRedis(app, capture, poll_id)
        return
    with confirming_connection(app) as connection:
        # Not connection.default_channel, which would try to connect for ever.
        channel = connection.channel()
        if isinstance(channel, AmqpChannel):
            _limit_tls(channel.connection.transport)
            yield Confirmed(app, connection, channel, poll_id, items)
        else:
            yield ByKombu(app, channel, poll_id)


def confirming_connection(app: Celery) -> Any:
    """A connection over which RabbitMQ says that it has a message; neither a write nor an answer takes for ever there.

    It connects when it is used, or at once where the app has a list of brokers; the caller releases it. Options of the
    app's own settings are kept.
    """
    conf: Any = app.conf
    bounds = {"write_timeout": LONGEST_WAIT, "read_timeout": LONGEST_WAIT}
    options = {**bounds, **(conf.broker_transport_options or {}), "confirm_publish": True}
    return on_any_broker(app.connection_for_write(transport_options=options))


def _limit_tls(transport: Any) -> None:
    """Give a socket of TLS a time limit where broker_connection_timeout is None: it passes over that of the kernel."""
    if isinstance(transport.sock, SSLSocket) and transport.sock.gettimeout() is None:
        transport.sock.settimeout(transport.write_timeout)
