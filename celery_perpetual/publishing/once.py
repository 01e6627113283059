"""One message that an entry of the store waits for."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.unacked import shares_redis
from celery_perpetual.ledger.record import Record
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.sender import AfterPublish
from celery_perpetual.publishing.singly import Singly
from celery_perpetual.store.commands.batches import remove_entry
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


def publish_once(app: Celery, store: Store, waiting: str, entry: str, signature: Any, task_id: str) -> None:
    """Send a signature and take ``entry`` out of the zset ``waiting``.

    On the store's own Redis in one step, so exactly once; elsewhere the message goes first, with the same id each time,
    and the entry follows when the broker has confirmed it.

    Raises:
        StoreUnavailable: the store did not answer.
        Exception: the broker did not, or it has refused the message; the entry is still there.
    """
    record = Record(
        task=signature.task,
        args=tuple(signature.args or ()),
        kwargs=dict(signature.kwargs or {}),
        options={name: value for name, value in signature.options.items() if name != "task_id"},
        key=None,
        reprs=None,
    )
    if not shares_redis(app, store):
        with closing(Singly(app)) as singly:
            send(app, singly.producer, record, task_id)
        remove_entry(store, waiting, entry)
        return
    after_publish = AfterPublish()
    with closing(Capture(app)) as capture:
        commands = BrokerCommands(capture.commands(record, task_id, after_publish))
    packed, targets = commands.packed()
    if script("push_once")(store, waiting=waiting, targets=targets, entry=entry, commands=packed):
        after_publish.send()
