"""Messages that the broker refuses: RabbitMQ does that where a queue is full and says so (``reject-publish``).

It is no fault of an item, so its message is sent later. Where the broker has accepted nothing of a chunk after the
first refusal, the batch is published up to there, and the relay goes on from there. Where it has accepted some of the
others, because one queue among several is full, the refused ones are put on the list of tasks to be resent, and the
batch is published to its end. So a message that the broker has is not sent again for one that it refuses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amqp.exceptions import MessageNacked
from kombu.exceptions import OperationalError

from celery_perpetual.ledger.ids import item_id, item_slots
from celery_perpetual.publishing.builder import Messages
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.store.scripts import script
from celery_perpetual.wording import counted

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class Refused(OperationalError):
    """The broker has refused messages; ``sent`` is the number of items that were published before."""

    def __init__(self, count: int, sent: int) -> None:
        super().__init__(f"the broker refused {counted(count, 'message')}: is the queue full?")
        self.sent = sent


def is_refused(error: BaseException) -> bool:
    """Whether a message could not be sent because the broker has refused it."""
    return isinstance(error, MessageNacked) or isinstance(error.__cause__, MessageNacked)


def accepted_until(store: Store, poll_id: str, indexed: IndexedItems, messages: Messages, last: int) -> int:
    """The index up to which the items of a part are in the broker, or on the list of tasks to be resent.

    Args:
        store: the namespace.
        poll_id: of the batch.
        indexed: the items of the part.
        messages: what was published of them, with at least one refused.
        last: index behind the part.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    refused = messages.refused
    first_refused = min(refused)
    messages.after_publish.leave_out({item_id(poll_id, index) for index in refused})
    if all(index in refused for index, _ in indexed if index >= first_refused):
        return first_refused
    for index, item in indexed:
        if index in refused:
            task_id = item_id(poll_id, index)
            where = item_slots(store.keys, task_id)
            del where["poll"]
            script("declare_lost")(
                store, **where, id=task_id, task=item.task, most=0, on_lost="requeue", recoveries=0, counts=0, tag="",
                copy="",
            )  # fmt: skip
    return last
