"""Records of items that have ended otherwise than by success, kept for a day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import chunks

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class EndedRecords(NamedTuple):
    """The records that are left of one batch."""

    unit: str | None
    """Name of its unit; None where the store does not know the batch, or it is of routines."""
    unit_task: str
    records: dict[str, bytes]
    """By task id."""


def ended_records(store: Store, poll_id: str) -> EndedRecords:
    """The records of those items of a batch that have ended otherwise than by success."""
    keys = store.keys
    with store.errors("records"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hmget(keys.poll(poll_id), "owner", "unit", "task")
        pipe.hgetall(keys.ended(poll_id))
        (owner, unit, task), records = pipe.execute()
    is_of_unit = unit is not None and owner in (None, b"unit")
    return EndedRecords(
        unit.decode() if is_of_unit else None,
        "" if task is None else task.decode(),
        {task_id.decode(): record for task_id, record in records.items()},
    )


def forget_ended(store: Store, poll_id: str, task_ids: Sequence[str]) -> None:
    """Forget records of a batch: their items have been enqueued again."""
    with store.errors("records"):
        for part in chunks(task_ids):
            store.redis.hdel(store.keys.ended(poll_id), *part)
