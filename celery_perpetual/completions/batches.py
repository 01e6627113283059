"""Steps that follow ends: a message when a whole batch has ended (``on_batch_done``), or that of the item's owner.

The script that closes an item puts what follows onto the list ``{prefix}:batches``: the poll id when the last item of a
batch with ``on_batch_done`` has ended; ``{owner} {task id} {status} {key}`` for each item of a batch whose owner hears
of each. The process that stored the end does it at once, and the leader's cycle does what is left.

``on_batch_done`` is sent by the process that takes the poll id out: on the store's own Redis in the same step, so
exactly once; elsewhere it sends first, and always with the same id.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.ledger.ids import BATCH_INDEX, base
from celery_perpetual.publishing.once import publish_once
from celery_perpetual.store.commands.batches import UNIT, batch, ends_of_batch, remove_unsent
from celery_perpetual.store.connection import Store
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


STATUSES = ("success", "failure", "revoked", "expired", "rejected", "ignored", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult(JsonFields):
    """How the items of one poll ended so far."""

    poll_id: str
    total: int
    by_status: dict[str, int]
    finished: bool
    timed_out: bool = False


def batch_result(store: Store, poll_id: str) -> BatchResult | None:
    """The counters of a batch, or None if the store does not know it."""
    found = batch(store, poll_id)
    if found is None:
        return None
    by_status = ends_of_batch(store, poll_id, STATUSES)
    return BatchResult(poll_id=poll_id, total=found.total, by_status=by_status, finished=found.left <= 0)


def follow_up(app: Celery, store: Store, entry: str) -> None:
    """Do what follows an end; the leader's cycle repeats it where it fails."""
    try:
        _follow_up(app, store, entry)
    except Exception as error:
        emit(events.FOLLOW_UP_DELAYED, entry=entry, error=error)


def waiting_follow_ups(store: Store) -> WorkList:
    """The steps that follow ends and are not done."""
    return WorkList(
        store, store.keys.batches, lambda entry, error: emit(events.FOLLOW_UP_DELAYED, entry=entry, error=error)
    )


def do_follow_ups(app: Celery, store: Store, waiting: WorkList, limit: int = 100) -> int:
    """Do what follows ends and was left; returns how many entries that were."""

    def work(entry: str) -> int:
        _follow_up(app, store, entry)
        return 1

    return waiting.work_off(work, limit)


def _follow_up(app: Celery, store: Store, entry: str) -> None:
    """The owner's kind, which the entry or the batch names, decides on the next step."""
    owner, _, rest = entry.partition(" ")
    if not rest:
        found = batch(store, entry)
        owner = UNIT if found is None else found.owner
    FOLLOW_UPS[owner](app, store, entry)


def _send_signature(app: Celery, store: Store, poll_id: str) -> None:
    """A unit's: the message ``on_batch_done``, once."""
    found, result = batch(store, poll_id), batch_result(store, poll_id)
    task: Any = None if found is None else app.tasks.get(found.task)
    options = getattr(task, "perpetual_options", None)
    if result is None or options is None or options.on_batch_done is None:
        remove_unsent(store, poll_id)
        return
    signature = options.on_batch_done.clone()
    if not signature.immutable:
        signature.args = (result.to_dict(), *signature.args)
    publish_once(app, store, store.keys.batches, poll_id, signature, f"{base(poll_id)}{BATCH_INDEX}")


#: By the kind of the owner. No script that ends a task knows these kinds; another room adds its own.
FOLLOW_UPS: dict[str, Callable[[Celery, Store, str], None]] = {UNIT: _send_signature}
