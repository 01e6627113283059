"""To RabbitMQ with pipelined confirms: a chunk is published without waiting, then all its confirms are waited for.

Kombu's ``confirm_publish`` waits for each message's confirm before it publishes the next one; the round trip is most
of its cost. A chunk counts as published when the broker has taken the responsibility for every message of it. While it
does, the messages of the next chunk are built; they are written when this chunk is confirmed and the ledger knows.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from ssl import SSLWantReadError, SSLWantWriteError
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import amqp.channel
from amqp.exceptions import RecoverableConnectionError
from amqp.method_framing import frame_writer
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_perpetual.broker.destinations import Destination, observe
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.amqp_stamp import FACTS, AmqpStamp, Parcel, check_header_frame, make_amqp_stamp
from celery_perpetual.publishing.builder import FEWEST, Messages
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.sender import AfterPublish, QuietSender
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.publishing.stampable import Kind, is_untouched, kind_of, kinds_of, objection, runs_of_kinds
from celery_perpetual.store.chunks import CHUNK

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.ledger.record import Record

#: A chunk whose confirms have not come after this many seconds is left to the relay.
CONFIRM_SECONDS = 30.0
#: So many bytes of messages are written at once.
WRITE_BYTES = 64 * 1024
#: Most bytes of messages that are built before their turn.
AHEAD_BYTES = 4 * 1024 * 1024

#: Errors of a write that the broker did not let through in time: of a socket with ``SO_SNDTIMEO``, of one with a time
#: limit of its own, as those of TLS have it, and of TLS over the first kind.
_HELD_UP = (BlockingIOError, TimeoutError, SSLWantWriteError, SSLWantReadError)


_READS_NOTHING = (
    "the broker reads nothing from the connection: a write did not end in its time, which is the write_timeout of "
    "broker_transport_options, over TLS broker_connection_timeout"
)


class Stalled(OperationalError):
    """The broker reads nothing from the connection, or does not answer: the connection is of no more use."""


class Confirmed:
    """Publishes chunks on a channel of its own. For one thread and one poll."""

    def __init__(
        self, app: Celery, connection: Any, channel: Any, poll_id: str, items: Sequence[CheckedItem] = ()
    ) -> None:
        """Publish nothing yet.

        Args:
            items: the items of the whole poll, where the caller has them: then the next chunk is built while the broker
                confirms the one before.
        """
        self._app = app
        self._connection = connection
        self._channel = channel
        self._poll_id = poll_id
        self._items = items
        self._confirms = Confirms(channel)
        self._publish: Any = type(channel)._basic_publish.__get__(channel)
        channel.basic_publish = self._basic_publish
        self._caught: list[Parcel] | None = None
        self._index = -1
        """Of the item whose message is published by itself."""
        self._stamps: dict[Kind, AmqpStamp | None] = {}
        self._ahead: dict[int, bytes] = {}
        """Messages that were built before their turn, by the index of their item."""
        self._producer = app.amqp.Producer(channel, auto_declare=False)
        self._destinations: dict[str, Destination] = {}
        """Of the messages that were published last, by task id."""
        observe(self._producer, self._destinations.__setitem__)
        self._sender = QuietSender(app)

    def publish(self, indexed: IndexedItems) -> Messages:
        """Publish the chunk and wait for its confirms; what the broker refuses is named in what is returned.

        Raises:
            kombu.exceptions.OperationalError: some did not come in time.
        """
        try:
            return self._published(indexed)
        except Stalled:
            self._abandon()
            raise

    def _published(self, indexed: IndexedItems) -> Messages:
        messages = Messages.none()
        self._sender.after_publish = messages.after_publish
        self._make_stamps(indexed)
        for kind, same in runs_of_kinds(indexed):
            stamp = self._stamps.get(kind)
            if stamp is not None:
                self._publish_stamped(stamp, same)
                stamp.keep_calls(messages.after_publish, same)
                messages.destinations.note(stamp.destination, (index for index, _ in same))
                continue
            for index, item in same:
                task_id, self._index = item_id(self._poll_id, index), index
                send(self._app, self._producer, opened(item), task_id, self._sender)
                messages.destinations.note(self._destinations.pop(task_id, None), (index,))
        self._build_ahead(max((index for index, _ in indexed), default=-1) + 1)
        messages.refused.update(self._confirms.wait(self._connection, CONFIRM_SECONDS))
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

    def _make_stamps(self, indexed: IndexedItems) -> None:
        for kind, count in kinds_of(indexed).items():
            if kind not in self._stamps and count >= FEWEST:
                self._stamps[kind] = self._made(kind, indexed)

    def _made(self, kind: Kind, indexed: IndexedItems) -> AmqpStamp | None:
        if objection(self._app, kind) is not None or not is_untouched(self._publish.__func__, amqp.channel):
            return None
        same = [each for each in indexed if kind_of(each[1]) == kind]
        return make_amqp_stamp(self._app, self.caught, self._channel.connection.frame_max, self._poll_id, same)

    def _publish_stamped(self, stamp: AmqpStamp, same: IndexedItems) -> None:
        """Write the messages, many at once, so that the broker works on some while others are built."""
        texts, indexes, size, ahead = [], [], 0, self._ahead
        for index, item in same:
            text = ahead.pop(index, None) or stamp.frames(index, item)
            texts.append(text)
            indexes.append(index)
            size += len(text)
            if size > WRITE_BYTES:
                self._write(texts, indexes)
                texts, indexes, size = [], [], 0
        self._write(texts, indexes)

    def _write(self, texts: list[bytes], indexes: list[int]) -> None:
        connection = self._channel.connection
        if connection is None or not connection.connected:
            raise RecoverableConnectionError("the connection to the broker is closed")
        try:
            connection.transport.write(b"".join(texts))
        except _HELD_UP as error:
            raise Stalled(_READS_NOTHING) from error
        self._confirms.expect(indexes)

    def _abandon(self) -> None:
        """Close the connection without a word: half a frame may be on the wire, and the broker may never answer."""
        connection = self._channel.connection
        if connection is None or not connection.connected:
            return
        with suppress(OSError):
            connection.transport.sock.settimeout(0)  # or the end of TLS waits for the broker
        connection.collect()

    def _build_ahead(self, first: int) -> None:
        """Build messages of the next chunk, of kinds that are known; an error is left to its turn."""
        self._ahead, size = {}, 0
        if not any(self._stamps.values()):
            return
        try:
            for index, item in enumerate(self._items[first : first + CHUNK], first):
                stamp = self._stamps.get(kind_of(item))
                if stamp is not None and size < AHEAD_BYTES:
                    text = self._ahead[index] = stamp.frames(index, item)
                    size += len(text)
        except SoftTimeLimitExceeded:  # the whole poll is to end
            raise
        except Exception:  # of the user's serializer, or of a value's own methods
            return

    def _basic_publish(self, message: Any, **target: Any) -> None:
        properties = message._serialize_properties()  # what amqp itself calls
        check_header_frame(FACTS + len(properties), self._channel.connection.frame_max)
        message._serialize_properties = lambda: properties  # or amqp would do it once more
        if self._caught is None:
            try:
                self._publish(message, **target)
            except _HELD_UP as error:
                raise Stalled(_READS_NOTHING) from error
            except RecoverableConnectionError as error:
                if isinstance(error.__context__, TimeoutError):  # amqp has raised it in place of that
                    raise Stalled(_READS_NOTHING) from error
                raise
            self._confirms.expect([self._index])
            return
        body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
        frames = self._frames(message, target)
        self._caught.append(Parcel(message.properties.get("application_headers") or {}, body, frames))

    def _frames(self, message: Any, target: dict[str, Any]) -> bytes:
        """The frames that amqp writes for a message."""
        written: list[bytes] = []
        connection = self._channel.connection
        usual, limits = connection.frame_writer, SimpleNamespace(frame_max=connection.frame_max, bytes_sent=0)
        connection.frame_writer = frame_writer(limits, SimpleNamespace(write=lambda view: written.append(bytes(view))))
        try:
            self._publish(message, **target)
        finally:
            connection.frame_writer = usual
        return b"".join(written)


class Confirms:
    """The confirms that a channel still owes."""

    def __init__(self, channel: Any) -> None:
        self._last = 0
        self._open: dict[int, int] = {}
        """The index of the item of each, by the number that the broker gives to the message."""
        self._refused: set[int] = set()
        channel.events["basic_ack"].add(self._ack)
        channel.events["basic_nack"].add(self._nack)
        channel.confirm_select()

    def expect(self, indexes: Sequence[int]) -> None:
        """Messages of these items were published; the broker counts them from 1."""
        self._open.update(enumerate(indexes, self._last + 1))
        self._last += len(indexes)

    def wait(self, connection: Any, seconds: float) -> set[int]:
        """Wait until the broker has answered for every message, and return the items whose message it has refused.

        Raises:
            kombu.exceptions.OperationalError: it did not answer in time.
        """
        deadline = time.monotonic() + seconds
        while self._open:
            left = deadline - time.monotonic()
            try:
                connection.drain_events(timeout=max(0.001, left))
            except TimeoutError:
                if left <= 0:
                    raise Stalled(f"the broker did not confirm {len(self._open)} messages in {seconds:g} s") from None
        refused, self._refused = self._refused, set()
        return refused

    def _ack(self, tag: int, multiple: bool) -> None:
        if multiple:
            self._open = {each: index for each, index in self._open.items() if each > tag}
        else:
            self._open.pop(tag, None)

    def _nack(self, tag: int, multiple: bool) -> None:
        self._refused.update(index for each, index in self._open.items() if each == tag or (multiple and each < tag))
        self._ack(tag, multiple)
