"""Notes where an item sends its retries and replacements, before their messages are in the broker.

They have the id of the item and may go to another queue (``self.retry(queue=…)``). Recovery looks for a lost message
where it was sent, and resends it there.
"""

from __future__ import annotations

from typing import Any

from celery import current_task, signals

from celery_perpetual import events
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.execution import current
from celery_perpetual.ledger.ids import item_address, item_index
from celery_perpetual.publishing.stampable import OWN_RECEIVER
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit


def connect() -> None:
    """Note them in this process."""
    signals.before_task_publish.connect(_note, weak=False, dispatch_uid=OWN_RECEIVER)


def _note(headers: Any = None, properties: Any = None, exchange: Any = None, routing_key: Any = None, **_: Any) -> None:
    execution = current()
    if execution is None or not headers or headers.get("id") != execution.task_id:
        return
    where, perpetual = item_address(execution.task_id), getattr(current_task.app, "perpetual", None)
    if where is None or perpetual is None:
        return
    name = getattr(exchange, "name", exchange) or ""
    destination = Destination(name, routing_key or "", (properties or {}).get("priority"))
    try:
        script("note_destination")(
            perpetual.store, batch=perpetual.store.keys.poll(where.poll_id), index=item_index(execution.task_id),
            destination=destination.to_json(),
        )  # fmt: skip
    except StoreUnavailable as error:
        emit(events.DESTINATION_NOT_NOTED, task_id=execution.task_id, error=error)
