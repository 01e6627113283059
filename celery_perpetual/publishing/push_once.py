"""One message for one entry of a waiting list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.broker.unacked import shares_redis
from celery_perpetual.ledger.record import Record
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.commands import Load
from celery_perpetual.publishing.message import send
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery import Celery


def publish_once(app: Celery, store: Store, waiting: str, entry: str, signature: Any, task_id: str) -> None:
    """Send a signature and take ``entry`` out of the zset ``waiting``.

    On the store's own Redis in one step, so exactly once; elsewhere the message goes first, with the same id each time.
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
        with app.connection_for_write() as connection:
            send(app, app.amqp.Producer(connection, auto_declare=False), record, task_id)
        with store.errors("waiting"):
            store.redis.zrem(waiting, entry)
        return
    capture = Capture(app)
    load = Load()
    try:
        load.add(capture.commands(record, task_id, load.after_publish))
    finally:
        capture.close()
    arguments, keys = load.packed(first_key=2)
    if script("push_once")(store, waiting=waiting, more_keys=keys, entry=entry, tail=arguments):
        load.after_publish.send()
