"""Results that are owed to Celery's result backend: the list of their tasks, and each result as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery_perpetual.store.work_list import REASON_MS

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def keep_owed(
    store: Store, task_id: str, text: str, reason: str, *, first_ms: int, most: int, ttl_ms: int
) -> bool:  # fmt: skip
    """Keep a result until it is stored; the first one of a task counts. May be called again.

    Args:
        store: that keeps it.
        task_id: of the task.
        text: the result.
        reason: why it is not stored yet.
        first_ms: after so long it is tried for the first time.
        most: how many results are kept.
        ttl_ms: after so long it is given up.

    Returns:
        False where too many are kept already.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    keys, at = store.keys, store.now() + first_ms
    with store.errors("owed result"):
        if store.redis.zcard(keys.owed) >= most and store.redis.zscore(keys.owed, task_id) is None:
            return False
        pipe = store.redis.pipeline(transaction=True)
        pipe.set(keys.owed_result(task_id), text, px=ttl_ms, nx=True)
        pipe.zadd(keys.owed, {task_id: at}, nx=True)
        pipe.set(keys.put_off(task_id), reason, px=REASON_MS)
        pipe.execute()
    return True


def owed_result(store: Store, task_id: str) -> str | None:
    """The result that is owed; None where it was stored or given up."""
    with store.errors("owed result"):
        text = store.redis.get(store.keys.owed_result(task_id))
    return None if text is None else text.decode()


def is_listed(store: Store, task_id: str) -> bool:
    """Whether a task is on the list; it is removed together with its result, unless that is too old."""
    with store.errors("owed result"):
        return store.redis.zscore(store.keys.owed, task_id) is not None


def remove_owed(store: Store, task_id: str) -> None:
    """Keep a result no longer: it is stored, or given up."""
    keys = store.keys
    with store.errors("owed result"):
        pipe = store.redis.pipeline(transaction=True)
        pipe.zrem(keys.owed, task_id)
        pipe.delete(keys.owed_result(task_id), keys.put_off(task_id))
        pipe.execute()


def list_owed(store: Store, task_ids: Sequence[str]) -> int:
    """Put tasks on the list whose results are owed; returns how many were not on it. Results stored since are left."""
    if not task_ids:
        return 0
    keys, now, added = store.keys, store.now(), 0
    with store.errors("owed result"):
        pipe = store.redis.pipeline(transaction=True)
        for task_id in task_ids:
            pipe.zadd(keys.owed, {task_id: now}, nx=True)
            pipe.exists(keys.owed_result(task_id))
        replies = pipe.execute()
        stored = [task_id for task_id, exists in zip(task_ids, replies[1::2], strict=True) if not exists]
        added = sum(new for new, exists in zip(replies[::2], replies[1::2], strict=True) if exists)
        if stored:
            store.redis.zrem(keys.owed, *stored)
    return added
