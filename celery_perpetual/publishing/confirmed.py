"""To RabbitMQ with pipelined confirms: a chunk is published without waiting, then all its confirms are waited for.

Kombu's ``confirm_publish`` waits for each message's confirm before it publishes the next one; the round trip is most
of its cost. A chunk counts as published when the broker has taken the responsibility for every message of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kombu.exceptions import OperationalError

from celery_perpetual.broker.destinations import Destination, observe
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.amqp_stamp import AmqpStamp, Parcel, make_amqp_stamp
from celery_perpetual.publishing.builder import FEWEST, Messages
from celery_perpetual.publishing.message import DELAYED_PREFIX, send
from celery_perpetual.publishing.sender import AfterPublish, QuietSender
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.publishing.stampable import Kind, kind_of, objection

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.ledger.record import Record

#: A chunk whose confirms have not come after this many seconds is left to the relay.
CONFIRM_SECONDS = 30.0


class Confirmed:
    """Publishes chunks on a channel of its own. For one thread and one poll."""

    def __init__(self, app: Celery, connection: Any, channel: Any, poll_id: str) -> None:
        self._app = app
        self._connection = connection
        self._poll_id = poll_id
        self._confirms = Confirms(channel)
        self._publish: Callable[..., Any] = type(channel)._basic_publish.__get__(channel)
        channel.basic_publish = self._basic_publish
        self._caught: list[Parcel] | None = None
        self._stamps: dict[Kind, AmqpStamp | None] = {}
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._destinations: dict[str, Destination] = {}
        """Of the messages that were published last, by task id."""
        observe(self._producer, self._note)
        self._sender = QuietSender(app)

    def publish(self, indexed: IndexedItems) -> Messages:
        """Publish the chunk and wait for its confirms.

        Raises:
            kombu.exceptions.OperationalError: some were refused or did not come in time.
        """
        messages = Messages.none()
        self._sender.after_publish = messages.after_publish
        for kind in {kind_of(item) for _, item in indexed}:
            same = [each for each in indexed if kind_of(each[1]) == kind]
            if kind not in self._stamps and len(same) >= FEWEST:
                good = objection(self._app, kind) is None
                self._stamps[kind] = make_amqp_stamp(self._app, self.caught, self._poll_id, same) if good else None
        for index, item in indexed:
            stamp = self._stamps.get(kind_of(item))
            if stamp is None:
                task_id = item_id(self._poll_id, index)
                send(self._app, self._producer, opened(item), task_id, self._sender)
                messages.destinations.note(self._destinations.pop(task_id, None), (index,))
            else:
                parcel = stamp.parcel(index, item)
                self._basic_publish(parcel.message, **parcel.target)
                stamp.keep_calls(messages.after_publish, index, item)
                messages.destinations.note(stamp.destination, (index,))
        self._confirms.wait(self._connection, CONFIRM_SECONDS)
        return messages

    def caught(self, record: Record, task_id: str, after_publish: AfterPublish | None = None) -> list[Parcel]:
        """The message that would be published for one record. Queues are declared, nothing else happens."""
        kept, self._sender.after_publish = self._sender.after_publish, after_publish or AfterPublish()
        caught: list[Parcel] = []
        self._caught = caught
        try:
            send(self._app, self._producer, record, task_id, self._sender)
        finally:
            self._caught, self._sender.after_publish = None, kept
        destination = self._destinations.pop(task_id, None)
        return [parcel._replace(destination=destination) for parcel in caught]

    def _note(self, task_id: str, destination: Destination) -> None:
        # The exchange of a delay is a way to another one, which is not known here.
        if not destination.exchange.startswith(DELAYED_PREFIX):
            self._destinations[task_id] = destination

    def _basic_publish(self, message: Any, **target: Any) -> None:
        if self._caught is not None:
            self._caught.append(Parcel(message, target))
            return
        self._publish(message, **target)
        self._confirms.expect()


class Confirms:
    """The confirms that a channel still owes."""

    def __init__(self, channel: Any) -> None:
        self._last = 0
        self._open: set[int] = set()
        self._refused = 0
        channel.events["basic_ack"].add(self._ack)
        channel.events["basic_nack"].add(self._nack)
        channel.confirm_select()

    def expect(self) -> None:
        """One more message was published; the broker counts them from 1."""
        self._last += 1
        self._open.add(self._last)

    def wait(self, connection: Any, seconds: float) -> None:
        """Wait until the broker has answered for every message.

        Raises:
            kombu.exceptions.OperationalError: it refused some, or did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while self._open:
            left = deadline - time.monotonic()
            try:
                connection.drain_events(timeout=max(0.001, left))
            except TimeoutError:
                if left <= 0:
                    raise OperationalError(
                        f"the broker did not confirm {len(self._open)} messages in {seconds:g} s"
                    ) from None
        if self._refused:
            raise OperationalError(f"the broker refused {self._refused} messages")

    def _ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open = {each for each in self._open if each > tag}
        else:
            self._open.discard(tag)

    def _nack(self, tag: int, multiple: bool) -> None:
        before = len(self._open)
        self._ack(tag, multiple)
        self._refused += before - len(self._open)
