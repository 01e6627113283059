"""Stored completions, and the channels on which they are published."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def completions_of(store: Store, ids: Sequence[str]) -> list[bytes | None]:
    """The records of tasks, in their order; JSON."""
    if not ids:
        return []
    with store.errors("completions"):
        return list(store.redis.mget([store.keys.completion(task_id) for task_id in ids]))


def open_subscription(store: Store) -> Any:
    """A connection of its own for channels, which redis-py calls a PubSub.

    Raises:
        RedisError, OSError: what redis-py raises, once the connection is used.
    """
    return store.redis.pubsub()
