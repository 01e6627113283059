"""Publishes committed batches; the ledger is the outbox.

On the store's own Redis a script pushes the messages and advances ``published`` together, so a repeat does nothing
and every item is in the broker exactly once. To any other broker a transport brings them, with confirms where the
transport has them, and then ``published`` advances: a repeat after a crash sends the same task ids again. A publisher
that dies is continued by the next leader (*relay*), which builds the same messages from the same records.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded

from celery_perpetual import events
from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.destinations import Destinations, by_index
from celery_perpetual.broker.unacked import shares_redis
from celery_perpetual.errors import InvalidItem, StoreUnavailable, described
from celery_perpetual.faults import reach
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import read_item
from celery_perpetual.publishing.builder import Builder, Messages, Stamps
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.kept import Kept
from celery_perpetual.publishing.message import has_own_sender
from celery_perpetual.publishing.one_by_one import PublishChunk, leave, publish_apart
from celery_perpetual.publishing.reach import Reach
from celery_perpetual.publishing.refused import Refused, accepted_until
from celery_perpetual.publishing.rehearsal import first_fault
from celery_perpetual.publishing.singly import Singly, send_singly
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.publishing.stampable import is_sent_in_pairs
from celery_perpetual.publishing.transports import open_transport
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.commands.batches import batch, remove_unpublished
from celery_perpetual.store.commands.destinations import published_to
from celery_perpetual.store.commands.records import open_records
from celery_perpetual.store.connection import Store
from celery_perpetual.store.one_ahead import OneAhead
from celery_perpetual.store.scripts import script
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Broker commands that one script may run at once; a queue that expires takes several per message.
MOST_COMMANDS = 2000
#: A batch whose publication goes on somewhere has brought a chunk to the broker in the last so many milliseconds.
PATIENCE_MS = 5_000


class Publisher:
    """Builds and publishes the messages of one app."""

    def __init__(self, app: Celery, store: Store) -> None:
        self.app, self.store = app, store
        self._captures, self._singly = Kept(partial(Capture, app)), Kept(partial(Singly, app))
        self._busy: set[str] = set()
        self.broker = Reach(app)

    @cached_property
    def outbox(self) -> WorkList:
        """Batches that are left to relay. Where no script publishes, their own publisher may still be at it."""
        return WorkList(
            self.store,
            self.store.keys.outbox,
            lambda poll_id, error: emit(events.PUBLISH_FAILED, poll_id=poll_id, error=error),
            patience_ms=0 if self.shares_redis else PATIENCE_MS,
        )

    @cached_property
    def shares_redis(self) -> bool:
        """Whether the broker is the store's own server and database."""
        return shares_redis(self.app, self.store)

    def build(self, poll_id: str, items: Sequence[CheckedItem], stamps: Stamps | None = None) -> Messages:
        """The messages of a small batch, for the commit to push; none where it cannot.

        Then they are rehearsed: an item that cannot be published is refused before it is committed.

        Args:
            stamps: those of the batches just before; new ones are added.

        Raises:
            InvalidItem: the message of an item cannot be built.
            kombu.exceptions.OperationalError: the broker, which is the store, did not answer.
        """
        if len(items) > CHUNK or not self.shares_redis or self._one_by_one(items) or is_sent_in_pairs():
            self._rehearse(items)
            return Messages.none()
        try:
            with self._builder(poll_id, stamps) as builder:
                messages = builder.build(list(enumerate(items)))
        except Exception:
            self._rehearse(items)
            raise
        return messages if len(messages.commands) <= MOST_COMMANDS else Messages.none()

    def _rehearse(self, items: Sequence[CheckedItem]) -> None:
        if fault := first_fault(self.app, items):
            at, error = fault
            raise InvalidItem(f"item {at} (task {items[at].task}) cannot be published: {described(error)}") from error

    def publish(self, poll_id: str, items: Sequence[CheckedItem] = ()) -> int:
        """Publish what a committed batch has not published yet, and return how many items that were.

        Args:
            items: the items of the batch, where the caller has them; else they are read from the ledger.

        Raises:
            StoreUnavailable: the store did not answer.
            kombu.exceptions.OperationalError: the broker did not, or accepts no more; the rest is relayed later.
        """
        with self._alone(poll_id) as alone, self.broker.watched():
            return self._publish(poll_id, items) if alone else 0

    def relay(self, limit: int = 100) -> int:
        """Continue what others left unpublished, and return how many items that were; what fails is put off."""
        sent = self.outbox.work_off(self._relayed, limit)
        self.broker.report_if_done(self.outbox)
        return sent

    def _relayed(self, poll_id: str) -> int:
        """Publish the rest of a batch; one of which the broker accepts a part each time is not put off for longer."""
        try:
            return self.publish(poll_id)
        except Refused as error:
            if not error.sent:
                raise
            return error.sent

    def _publish(self, poll_id: str, items: Sequence[CheckedItem]) -> int:
        sent, state = 0, self._state(poll_id)
        destinations = self._destinations(poll_id, state)
        with ExitStack() as stack, OneAhead[int]() as call:
            by_kind: dict[bool, PublishChunk] = {}
            built: Messages | None = None
            while state is not None and state[1] < state[2]:
                task, first, total = state
                last = _end_of_part(first, total)
                indexed = [] if built else self._indexed(task, poll_id, first, last, items)
                messages = built or self._built(stack, by_kind, poll_id, indexed, items)
                until = accepted_until(self.store, poll_id, indexed, messages, last) if messages.refused else last
                if first % CHUNK == 0:
                    destinations = Destinations()
                destinations.extend(messages.destinations)
                call.begin(self._begin_part(messages, poll_id, first, until, destinations))
                if last < total and self.shares_redis and not is_sent_in_pairs():
                    following = partial(self._indexed, task, poll_id, last, _end_of_part(last, total), items)
                    built = self._built_ahead(stack, by_kind, following)
                done = call.reply() or 0
                if done:
                    self.broker.report()
                    messages.after_publish.send()
                    reach("poll.published")
                    sent += until - first
                if until < last:
                    raise Refused(len(messages.refused), sent)
                built = built if done == 1 else None
                state = (task, last, total) if done == 1 else self._state(poll_id) if done else None
        return sent

    def _built(
        self, stack: ExitStack, by_kind: dict[bool, PublishChunk], poll_id: str, indexed: IndexedItems,
        items: Sequence[CheckedItem],
    ) -> Messages:  # fmt: skip
        """The messages of a part; where no script brings them to the broker, they are there already."""
        singly = self._one_by_one(item for _, item in indexed)
        open_publisher = partial(self._chunk_publisher, poll_id, items, one_by_one=singly)
        try:
            if singly not in by_kind:
                by_kind[singly] = open_publisher(stack)
            return by_kind[singly](indexed)
        except Exception as error:
            by_kind.clear()
            stack.close()
            messages, unpublished = publish_apart(self.app, open_publisher, indexed, error)
            leave(self.app, self.store, poll_id, unpublished)
            return messages

    def _built_ahead(
        self, stack: ExitStack, by_kind: dict[bool, PublishChunk], read: Callable[[], IndexedItems]
    ) -> Messages | None:
        """The messages of the next part, built while the store pushes the one before; an error is left to its turn."""
        build = by_kind.get(False)
        if build is None:
            return None
        try:
            indexed = read()
            return None if self._one_by_one(item for _, item in indexed) else build(indexed)
        except SoftTimeLimitExceeded:  # the whole poll is to end
            raise
        except Exception:  # of the user's code, Celery's, or of the store
            by_kind.clear()
            stack.close()
            return None

    def _destinations(self, poll_id: str, state: tuple[str, int, int] | None) -> Destinations:
        """Where the items of a chunk went of which another publisher has published a part."""
        found = Destinations()
        if state is not None and state[1] % CHUNK:
            for index, destination in by_index(published_to(self.store, poll_id, [state[1] // CHUNK])[0]).items():
                found.note(destination, (index,))
        return found

    def _begin_part(
        self, messages: Messages, poll_id: str, first: int, last: int, destinations: Destinations
    ) -> Callable[[], int]:
        commands, targets = messages.commands.packed()
        reach("poll.publishing")
        return script("publish").begin(
            self.store, batch=self.store.keys.poll(poll_id), targets=targets, poll=poll_id, first=first, last=last,
            chunk=first // CHUNK, destinations=destinations.to_json(), commands=commands,
        )  # fmt: skip

    def _chunk_publisher(
        self, poll_id: str, items: Sequence[CheckedItem], stack: ExitStack, *, one_by_one: bool
    ) -> PublishChunk:
        """How chunks get to the broker: within the script, or before it."""
        if self.shares_redis and not one_by_one:
            return stack.enter_context(self._builder(poll_id)).build
        return stack.enter_context(open_transport(self.app, poll_id, items, one_by_one=one_by_one)).publish

    def _state(self, poll_id: str) -> tuple[str, int, int] | None:
        found = batch(self.store, poll_id)
        if found is None:
            remove_unpublished(self.store, poll_id)
            return None
        return found.task, found.published, found.total

    def _indexed(
        self, unit_task: str, poll_id: str, first: int, last: int, items: Sequence[CheckedItem]
    ) -> list[tuple[int, CheckedItem]]:
        """Items of one chunk that have not ended; a relay need not send again what ran already."""
        if items:
            return list(enumerate(items[first:last], first))
        chunk = first // CHUNK
        found = open_records(self.store, poll_id, chunk, first % CHUNK, (last - 1) % CHUNK)
        return [(chunk * CHUNK + position, read_item(record, unit_task)) for position, record in found]

    @contextmanager
    def _builder(self, poll_id: str, stamps: Stamps | None = None) -> Iterator[Builder]:
        """A builder on this thread's capture, which is not kept if it fails."""
        with self._captures.lent() as capture:
            yield Builder(self.app, capture, poll_id, stamps)

    def captured(self, send: Callable[..., Any]) -> BrokerCommands:
        """The commands of what ``send`` sends by its ``producer``; none where the broker is not the store: it is sent.

        Raises:
            Exception: the broker did not answer, or has refused the message.
        """
        if not self.shares_redis:
            send_singly(self._singly, send)
            return BrokerCommands()
        with self._captures.lent() as capture:
            return BrokerCommands(capture.channel.capture(lambda: send(producer=capture.producer)))

    def release(self) -> None:
        """Close this thread's connections to the broker."""
        for kept in (self._captures, self._singly):
            kept.release()

    def _one_by_one(self, items: Iterable[CheckedItem]) -> bool:
        """Whether there are tasks among these that publish themselves."""
        return any(has_own_sender(self.app.tasks.get(name)) for name in {item.task for item in items})

    @contextmanager
    def _alone(self, poll_id: str) -> Iterator[bool]:
        """One publisher per batch in this process; between processes the store decides."""
        alone = poll_id not in self._busy
        self._busy.add(poll_id)
        try:
            yield alone
        finally:
            if alone:
                self._busy.discard(poll_id)


def publish_or_leave(publisher: Publisher, poll_id: str, items: Sequence[CheckedItem] = ()) -> None:
    """Publish at once; what cannot be sent now is relayed by the leader."""
    try:
        publisher.publish(poll_id, items)
    except StoreUnavailable as error:
        emit(events.PUBLISH_DELAYED, poll_id=poll_id, error=error)
    except Exception as error:
        emit(events.PUBLISH_FAILED, poll_id=poll_id, error=error)
        with suppress(StoreUnavailable):
            publisher.outbox.make_due(poll_id, error)


def _end_of_part(first: int, total: int) -> int:
    """Index behind the part that begins with item ``first``: a chunk, or one item."""
    return first + 1 if is_sent_in_pairs() else min(total, (first // CHUNK + 1) * CHUNK)
