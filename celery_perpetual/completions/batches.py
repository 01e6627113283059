"""``on_batch_done``: one message when a whole batch has ended.

The script that closes the last item of a batch puts the batch into ``{prefix}:batches``. The process that takes it out
sends the message: on the store's own Redis in the same step, so exactly once; elsewhere it sends first, and always with
the same id. The process that stored the last end does it at once; the leader's cycle sends the messages that are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.ledger.ids import BATCH_INDEX, base
from celery_perpetual.publishing.publisher import publish_once
from celery_perpetual.store.commands.batches import UNIT, Batch, batch, ends_of_batch, remove_unsent
from celery_perpetual.store.connection import Store
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


STATUSES = ("success", "failure", "revoked", "expired", "rejected", "ignored", "lost")


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchResult:
    """How the items of one poll ended so far."""

    poll_id: str
    total: int
    by_status: dict[str, int]
    finished: bool
    timed_out: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "poll_id": self.poll_id,
            "total": self.total,
            "by_status": self.by_status,
            "finished": self.finished,
            "timed_out": self.timed_out,
        }


def batch_result(store: Store, poll_id: str) -> BatchResult | None:
    """The counters of a batch, or None if the store does not know it."""
    found = batch(store, poll_id)
    if found is None:
        return None
    by_status = ends_of_batch(store, poll_id, STATUSES)
    return BatchResult(poll_id=poll_id, total=found.total, by_status=by_status, finished=found.left <= 0)


def send_batch_done(app: Celery, store: Store, poll_id: str) -> None:
    """Send a batch's ``on_batch_done``; the leader's cycle repeats it where it fails."""
    try:
        _send(app, store, poll_id)
    except Exception as error:
        emit(events.BATCH_DONE_DELAYED, poll_id=poll_id, error=error)


def finished_list(store: Store) -> WorkList:
    """The finished batches whose owners have not heard of it."""
    return WorkList(
        store, store.keys.batches, lambda poll_id, error: emit(events.BATCH_DONE_DELAYED, poll_id=poll_id, error=error)
    )


def relay_batch_done(app: Celery, store: Store, finished: WorkList, limit: int = 100) -> int:
    """Do what follows the last end of batches and was left; returns how many batches that were."""

    def follow_up(poll_id: str) -> int:
        _send(app, store, poll_id)
        return 1

    return finished.work_off(follow_up, limit)


def _send(app: Celery, store: Store, poll_id: str) -> None:
    """What follows the last end of a batch is a matter of its owner's kind."""
    found = batch(store, poll_id)
    FOLLOW_UPS[found.owner if found is not None else UNIT](app, store, poll_id, found)


def _send_signature(app: Celery, store: Store, poll_id: str, found: Batch | None) -> None:
    """A unit's: the message ``on_batch_done``, once."""
    result = batch_result(store, poll_id)
    task: Any = None if found is None else app.tasks.get(found.task)
    options = getattr(task, "perpetual_options", None)
    if result is None or options is None or options.on_batch_done is None:
        remove_unsent(store, poll_id)
        return
    signature = options.on_batch_done.clone()
    if not signature.immutable:
        signature.args = (result.to_dict(), *signature.args)
    publish_once(app, store, store.keys.batches, poll_id, signature, f"{base(poll_id)}{BATCH_INDEX}")


#: By the kind of the owner that a batch names. No script that ends a task knows these kinds.
FOLLOW_UPS = {UNIT: _send_signature}
