"""Builds the messages of one poll for a Redis broker: stamped out where that is exact, one by one elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.destinations import Destinations
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.sender import AfterPublish
from celery_perpetual.publishing.stamp import IndexedItems, Stamp, make_stamp
from celery_perpetual.publishing.stampable import Kind, kind_of, kinds_of, objection, runs_of_kinds

if TYPE_CHECKING:
    from celery import Celery

#: A stamp costs three messages; fewer than this are built one by one.
FEWEST = 8


#: The stamp of each kind that has been asked for; None where its messages have to be built one by one.
Stamps = dict[Kind, Stamp | None]


class Messages(NamedTuple):
    """The messages of some items."""

    commands: BrokerCommands
    """They bring the messages to the broker."""
    after_publish: AfterPublish
    """The signals that are due once they have."""
    destinations: Destinations
    """Where the messages go."""
    refused: set[int]
    """Indexes of the items whose messages the broker has not accepted."""

    @classmethod
    def none(cls) -> Messages:
        """No messages yet."""
        return cls(BrokerCommands(), AfterPublish(), Destinations(), set())

    def extend(self, other: Messages) -> None:
        """Add other messages."""
        self.commands.extend(other.commands)
        self.after_publish.extend(other.after_publish)
        self.destinations.extend(other.destinations)
        self.refused.update(other.refused)


class Builder:
    """Messages of one poll, in one go or chunk by chunk. For one thread."""

    def __init__(self, app: Celery, capture: Capture, poll_id: str, stamps: Stamps | None = None) -> None:
        """Build nothing yet.

        Args:
            stamps: of batches just before; new ones are added. None: it makes its own.
        """
        self._app = app
        self._capture = capture
        self._poll_id = poll_id
        self._stamps: Stamps = {} if stamps is None else stamps

    def build(self, indexed: IndexedItems) -> Messages:
        """The messages of items, given with their index in the batch.

        Raises:
            Exception: what Celery raises for an item that cannot be sent.
        """
        messages = Messages.none()
        for kind, count in kinds_of(indexed).items():
            if kind not in self._stamps and count >= FEWEST:
                self._stamps[kind] = self._made(kind, indexed)
        for kind, same in runs_of_kinds(indexed):
            stamp = self._stamps.get(kind)
            if stamp is not None:
                stamp.build(self._poll_id, messages.commands, messages.after_publish, same)
                messages.destinations.note(stamp.destination, (index for index, _ in same))
                continue
            for index, item in same:
                task_id = item_id(self._poll_id, index)
                messages.commands.add(self._capture.commands(opened(item), task_id, messages.after_publish))
                messages.destinations.note(self._capture.destination, (index,))
        return messages

    def _made(self, kind: Kind, indexed: IndexedItems) -> Stamp | None:
        if objection(self._app, kind) is not None:
            return None
        return make_stamp(
            self._app, self._capture, self._poll_id, [each for each in indexed if kind_of(each[1]) == kind]
        )


def are_stamped(stamps: Stamps, items: Sequence[CheckedItem]) -> bool:
    """Whether the messages of all these are stamped out from others: no code of the user's runs to build them."""
    return all(stamps.get(kind) is not None for kind in set(map(kind_of, items)))
