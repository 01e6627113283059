"""Stamps for RabbitMQ: as for Redis, but what is cut is a message object, not a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from amqp import Message

from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.bodies import Bodies
from celery_perpetual.publishing.sender import AfterPublish, SignalCall, call_for
from celery_perpetual.publishing.stamp import Numbered

if TYPE_CHECKING:
    from celery import Celery


class Parcel(NamedTuple):
    """A message and the arguments with which it is published."""

    message: Any
    way: dict[str, Any]

    def content(self) -> tuple[Any, ...]:
        """Everything of it that goes to the broker."""
        body = self.message.body
        properties = self.message._serialize_properties()
        return body.encode() if isinstance(body, str) else bytes(body), properties, self.way


class AmqpStamp:
    """Messages of one kind in one poll."""

    def __init__(self, poll_id: str, specimen: Parcel, contents: Bodies, told: list[SignalCall]) -> None:
        self._poll_id = poll_id
        self._way = specimen.way
        self._properties = dict(specimen.message.properties)
        self._headers = self._properties.pop("application_headers")
        self._contents = contents
        self._told = told

    def parcel(self, index: int, work: CheckedItem) -> Parcel:
        """The message of one item."""
        task_id = item_id(self._poll_id, index)
        shown_args, shown_kwargs = work.shown or self._contents.reprs(work)
        headers = {
            **self._headers, "id": task_id, "root_id": task_id, "argsrepr": shown_args, "kwargsrepr": shown_kwargs
        }  # fmt: skip
        properties = {**self._properties, "correlation_id": task_id, "application_headers": headers}
        return Parcel(Message(self._contents.body(work), **properties), self._way)

    def tell(self, after_publish: AfterPublish, index: int, work: CheckedItem) -> None:
        """Keep what is to be told of one item."""
        for told in self._told:
            if told.signal.receivers:
                reprs = work.shown or self._contents.reprs(work)
                arguments = call_for(told, item_id(self._poll_id, index), self._contents.whole(work), reprs)
                after_publish.add(told.signal, arguments)


def make_amqp_stamp(
    app: Celery, catch: Callable[..., list[Parcel]], poll_id: str, numbered: Numbered
) -> AmqpStamp | None:
    """A stamp for items of one kind, or None where it would not be exact.

    Args:
        catch: gives what would be published for a record, a task id and an after_publish.
    """
    work = numbered[0][1]
    task_id, shown_args, shown_kwargs = (str(uuid4()) for _ in range(3))
    after_publish = AfterPublish()
    caught = catch(replace(opened(work), reprs=(shown_args, shown_kwargs)), task_id, after_publish)
    if len(caught) != 1:
        return None
    message = caught[0].message
    if "compression" in (message.properties.get("application_headers") or {"compression": None}):
        return None
    contents = Bodies(app, work, caught[0].content()[0])
    stamp = AmqpStamp(poll_id, caught[0], contents, after_publish.taken())
    for index, each in dict((numbered[0], numbered[-1])).items():
        real = catch(opened(each), item_id(poll_id, index))
        if [parcel.content() for parcel in real] != [stamp.parcel(index, each).content()]:
            return None
    return stamp
