"""Messages built as the publisher builds them, and sent nowhere: what cannot be published shows before a commit.

The router, the task's options, serializers, compression, properties and headers take part; the broker does not, as it
may be away. Signals are not sent. An ``apply_async`` of the user's own is not called, because it may have effects of
its own; only its route is looked up.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kombu import Connection
from kombu.transport.pyamqp import Channel as AmqpChannel
from kombu.utils.json import dumps

from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import Record, opened
from celery_perpetual.publishing.message import has_own_sender, route, send
from celery_perpetual.publishing.sender import QuietSender, is_celerys_own
from celery_perpetual.publishing.stamp import IndexedItems
from celery_perpetual.publishing.stampable import Kind, kind_of, objection

if TYPE_CHECKING:
    from celery import Celery

#: Of no message that is sent.
TASK_ID = "00000000-0000-8000-8000-000000000000"


class Rehearsal:
    """Builds messages of one app. For one thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        channel: Any = Connection("memory://").channel()
        channel.basic_publish = _check_virtual
        if app.connection_for_write().transport.driver_type == "amqp":
            channel.prepare_message = partial(AmqpChannel.prepare_message, channel)
            channel.basic_publish = _check_amqp
        producer: Any = app.amqp.Producer(channel, auto_declare=False)
        producer.maybe_declare = _declare_nothing
        self._producer = producer
        self._sender = QuietSender(app, is_silent=True) if is_celerys_own(app.amqp) else _send_nothing

    def fault(self, record: Record) -> Exception | None:
        """The error that building the message of a record raises; None without one."""
        try:
            if has_own_sender(self._app.tasks.get(record.task)):
                route(self._app, record)
            else:
                send(self._app, self._producer, record, TASK_ID, self._sender)
        except Exception as error:  # a route, a queue, a property or a header of the user's
            return error
        return None


def first_fault(app: Celery, items: Sequence[CheckedItem]) -> tuple[int, Exception] | None:
    """Index of the first item whose message cannot be built, and why.

    Of items whose messages differ in nothing but their arguments, which no user code looks at, one is built.
    """
    rehearsal: Rehearsal | None = None
    alike: dict[Kind, bool] = {}
    if len(found := set(map(kind_of, items))) == 1 and all(objection(app, kind) is None for kind in found):
        items = items[:1]
    for index, item in enumerate(items):
        kind = kind_of(item)
        if alike.get(kind):
            continue
        if kind not in alike:
            alike[kind] = objection(app, kind) is None
        rehearsal = rehearsal or Rehearsal(app)
        error = rehearsal.fault(opened(item))
        if error is not None:
            return index, error
    return None


def faults(app: Celery, indexed: IndexedItems) -> dict[int, Exception]:
    """Why messages of some items cannot be built, by the index of the item."""
    rehearsal = Rehearsal(app)
    found = {}
    for index, item in indexed:
        try:
            error = rehearsal.fault(opened(item))
        except Exception as unreadable:  # a serializer that this process does not have
            error = unreadable
        if error is not None:
            found[index] = error
    return found


def _check_virtual(message: Any, **_: Any) -> None:
    dumps(message)


def _check_amqp(message: Any, **_: Any) -> None:
    message._serialize_properties()  # noqa: SLF001  # what amqp itself calls to send it


def _declare_nothing(*_: Any, **__: Any) -> None:
    """The broker is not asked."""


def _send_nothing(*_: Any, **__: Any) -> None:
    """A sender of the user's own might send signals."""
