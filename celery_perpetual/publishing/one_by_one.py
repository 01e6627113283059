"""Publishes a chunk item by item after it could not be published as a whole, so that one item does not hold up all.

An item that cannot be published is parked with its reason: an operator mends the cause and lets it run, or fails it. A
run of a routine fails with this reason, so that its routine goes on.
A broker that does not answer, accepts no connection, or does not confirm, is no fault of an item: that is raised, and
the relay tries again.
So is one that closes the channel, or the connection, for every item, as it does where rights, an exchange or a queue
have changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from amqp.exceptions import AMQPNotImplementedError, FrameError, FrameSyntaxError, InvalidCommand, UnexpectedFrame
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.ledger.ids import item_id, item_slots
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.publishing.builder import Messages
from celery_perpetual.publishing.message import has_own_sender
from celery_perpetual.publishing.reach import broker_answers
from celery_perpetual.publishing.rehearsal import faults
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.publishing.stampable import Kind, kind_of
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Brings items to the broker, or returns the commands by which a script does.
PublishChunk = Callable[[IndexedItems], Messages]

#: So many items of a kind are tried one after the other while the broker closes the channel or connection for each.
MOST_CLOSED = 20

#: The errors with which RabbitMQ closes the connection for what was sent there. Others are not the item's: there may be
#: too many connections, or too few members of a cluster.
_CLOSES_CONNECTION = (FrameError, FrameSyntaxError, InvalidCommand, UnexpectedFrame, AMQPNotImplementedError)

#: Errors that say nothing about the item.
_NOT_THE_ITEMS = (StoreUnavailable, OperationalError, SoftTimeLimitExceeded)


class Unpublished(NamedTuple):
    """An item that cannot be published."""

    at: int
    """Index of the item in its batch."""
    item: CheckedItem
    error: Exception


class _Apart:
    """Publishes the items of one chunk, each by itself."""

    def __init__(self, app: Celery, open_publisher: Callable[[ExitStack], PublishChunk]) -> None:
        self._app = app
        self._open = open_publisher
        self._errors: Any = app.connection_for_write()
        self.messages = Messages.none()
        self.sent = False
        """Whether one was published."""

    def publish(self, indexed: IndexedItems, known: Mapping[int, Exception]) -> list[Unpublished]:
        """Publish what can be published, and return the others.

        Args:
            known: errors of items that are not tried, by the index of the item.

        Raises:
            Exception: the broker does not answer.
        """
        unpublished: list[Unpublished] = []
        closed: dict[Kind, list[Exception]] = {}
        with ExitStack() as stack:
            publish: PublishChunk | None = None
            for index, item in indexed:
                of_kind = closed.setdefault(kind_of(item), [])
                fault = known.get(index) or (of_kind[-1] if len(of_kind) >= MOST_CLOSED else None)
                if fault is None:
                    publish = publish or self._open(stack)  # an error of this one is no item's
                    try:
                        self.messages.extend(publish([(index, item)]))
                        self.sent = True
                        of_kind.clear()
                        continue
                    except _NOT_THE_ITEMS:
                        raise
                    except Exception as raised:
                        if not self._is_the_items(item, raised):
                            raise
                        fault, publish = raised, None
                        stack.close()
                        if self.is_the_brokers(raised):
                            of_kind.append(raised)
                unpublished.append(Unpublished(index, item, fault))
        return unpublished

    def _is_the_items(self, item: CheckedItem, error: Exception) -> bool:
        """Whether an error was raised for the item, and not because the broker is away."""
        is_of_a_connection = isinstance(error, self._errors.connection_errors) and not self.is_the_brokers(error)
        is_own = has_own_sender(self._app.tasks.get(item.task))
        return not (is_of_a_connection and not is_own) and broker_answers(self._app)

    def is_the_brokers(self, error: Exception) -> bool:
        """Whether the broker has answered by closing the channel, or the connection for what it was sent there.

        It does the latter where headers do not fit into a frame, for one.
        """
        return isinstance(error, (*self._errors.channel_errors, *_CLOSES_CONNECTION))


def publish_apart(
    app: Celery, open_publisher: Callable[[ExitStack], PublishChunk], indexed: IndexedItems, error: Exception
) -> tuple[Messages, list[Unpublished]]:
    """Publish what can be published.

    What the broker has refused while it accepted others is tried once more behind them: it may have refused all until
    a right was given back.

    Args:
        error: the reason why the chunk could not be published as a whole.
        open_publisher: opens a way to the broker that the stack closes; a new one after each fault.

    Returns:
        What is left to do for the items that can be published, and the others.

    Raises:
        Exception: the broker does not answer.
    """
    if isinstance(error, _NOT_THE_ITEMS) or not broker_answers(app):
        raise error
    apart = _Apart(app, open_publisher)
    unpublished = apart.publish(indexed, faults(app, indexed))
    refused = [each for each in unpublished if apart.is_the_brokers(each.error)]
    if refused and not apart.sent:
        raise error
    if refused:
        again = apart.publish([(each.at, each.item) for each in refused], {})
        unpublished = [each for each in unpublished if each not in refused] + again
    return apart.messages, unpublished


def leave(app: Celery, store: Store, poll_id: str, unpublished: list[Unpublished]) -> None:
    """Leave items to an operator, and let runs of routines fail; harmless where that has been done.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    perpetual: Any = getattr(app, "perpetual", None)
    for index, item, error in unpublished:
        task_id, reason = item_id(poll_id, index), f"it cannot be published: {described(error)}"
        if item.run is not None and perpetual is not None:
            perpetual.fail(task_id, reason)
            continue
        where = item_slots(store.keys, task_id)
        del where["poll"]
        parked = script("park_item")(store, **where, id=task_id, task=item.task, seen="", reason=reason, starved="")
        if parked:
            emit(events.ITEM_UNPUBLISHED, task_id=task_id, task=item.task, poll_id=poll_id, error=error)
