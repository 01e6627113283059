"""Results that Celery's backend is owed, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual import Perpetual


def make_due(perpetual: Perpetual) -> None:
    """The next pass tries all that is owed, whenever it was tried last."""
    for task_id in perpetual.store.redis.zrange(perpetual.store.keys.owed, 0, -1):
        perpetual.store.redis.zadd(perpetual.store.keys.owed, {task_id: 1})
