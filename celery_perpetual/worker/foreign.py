"""Items of another app that shares a queue with this one, under a prefix of its own.

Celery discards a message of a task that it does not know, and stores a failure for it. The item of another namespace
would stay open there for ever. So this worker puts it back, to be received by a worker of its own app.
"""

from __future__ import annotations

from typing import Any

from celery.utils.log import get_logger

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.interest import wired
from celery_perpetual.ledger.ids import item_address, made_at
from celery_perpetual.store.commands.batches import known_batches
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit

#: After so many seconds a message goes back: workers of one app alone would hand it to each other all the time.
PUT_BACK_SECONDS = 1.0


def leaving_foreign_items(consumer: Any) -> Any:
    """The function that the consumer calls for a message of a task that it does not know."""
    discard = consumer.on_unknown_task

    def on_unknown_task(body: Any, message: Any, exc: Any) -> Any:
        perpetual, headers = wired(consumer.app), getattr(message, "headers", None) or {}
        task_id = headers.get("id")
        if perpetual is None or not _is_foreign(perpetual.grants.store, task_id):
            return discard(body, message, exc)
        emit(events.ITEM_FOREIGN, task_id=task_id, task=headers.get("task"))
        # Another thread may keep the time, and this one the connection.
        consumer.timer.call_after(
            PUT_BACK_SECONDS, consumer.call_soon, (_put_back, message, consumer.connection_errors)
        )
        return None

    return on_unknown_task


def _put_back(message: Any, errors: Any) -> None:
    message.reject_log_error(get_logger(__name__), errors, requeue=True)


def _is_foreign(store: Store, task_id: Any) -> bool:
    """Whether a message is of an item that this namespace does not have, or of which that cannot be found out now."""
    where = item_address(task_id)
    if where is None:
        return False
    try:
        # An older message was perhaps an item of this namespace that is forgotten.
        return made_at(task_id) > store.now() - store.limits.tombstone_ttl and not known_batches(store, [where.poll_id])
    except StoreUnavailable:
        return True
