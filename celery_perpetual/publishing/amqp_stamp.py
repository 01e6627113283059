"""Stamps for RabbitMQ: as for Redis, but what is cut is a message object, not a text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import uuid4

from amqp import Message

from celery_perpetual.broker.destinations import Destination
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import opened
from celery_perpetual.publishing.bodies import Bodies
from celery_perpetual.publishing.sender import AfterPublish, SignalCall, call_for
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.tasks.task import ROUTINE_HEADER

if TYPE_CHECKING:
    from celery import Celery


class Parcel(NamedTuple):
    """A message and the arguments with which it is published."""

    message: Any
    target: dict[str, Any]
    destination: Destination | None = None

    def content(self) -> tuple[Any, ...]:
        """Everything of it that goes to the broker."""
        body = self.message.body
        properties = self.message._serialize_properties()
        return body.encode() if isinstance(body, str) else bytes(body), properties, self.target


class AmqpStamp:
    """Messages of one kind in one poll."""

    def __init__(self, poll_id: str, specimen: Parcel, bodies: Bodies, calls: list[SignalCall]) -> None:
        self._poll_id = poll_id
        self._target = specimen.target
        self.destination = specimen.destination
        self._properties = dict(specimen.message.properties)
        self._headers = self._properties.pop("application_headers")
        self._bodies = bodies
        self._calls = calls

    def parcel(self, index: int, item: CheckedItem) -> Parcel:
        """The message of one item."""
        task_id = item_id(self._poll_id, index)
        args_repr, kwargs_repr = item.reprs or self._bodies.reprs(item)
        headers = {
            **self._headers, "id": task_id, "root_id": task_id, "argsrepr": args_repr, "kwargsrepr": kwargs_repr
        }  # fmt: skip
        if item.run is not None:
            headers[ROUTINE_HEADER] = item.run
        properties = {**self._properties, "correlation_id": task_id, "application_headers": headers}
        return Parcel(Message(self._bodies.body(item), **properties), self._target)

    def keep_calls(self, after_publish: AfterPublish, index: int, item: CheckedItem) -> None:
        """Keep the signals that are due after the publish of one item."""
        for call in self._calls:
            if call.signal.receivers:
                reprs = item.reprs or self._bodies.reprs(item)
                arguments = call_for(call, item_id(self._poll_id, index), self._bodies.whole(item), reprs, item.run)
                after_publish.add(call.signal, arguments)


def make_amqp_stamp(
    app: Celery, catch: Callable[..., list[Parcel]], poll_id: str, indexed: IndexedItems
) -> AmqpStamp | None:
    """A stamp for items of one kind, or None where it would not be exact.

    Args:
        catch: gives what would be published for a record, a task id and an after_publish.
    """
    item = indexed[0][1]
    task_id, args_repr, kwargs_repr = (str(uuid4()) for _ in range(3))
    after_publish = AfterPublish()
    caught = catch(replace(opened(item), reprs=(args_repr, kwargs_repr)), task_id, after_publish)
    if len(caught) != 1:
        return None
    message = caught[0].message
    if "compression" in (message.properties.get("application_headers") or {"compression": None}):
        return None
    bodies = Bodies(app, item, caught[0].content()[0])
    stamp = AmqpStamp(poll_id, caught[0], bodies, after_publish.take())
    for index, each in dict((indexed[0], indexed[-1])).items():
        real = catch(opened(each), item_id(poll_id, index))
        if [parcel.content() for parcel in real] != [stamp.parcel(index, each).content()]:
            return None
    return stamp
