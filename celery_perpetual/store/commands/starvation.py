"""How far the starvation ladder has come, by queue."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def starving_queues(store: Store) -> dict[str, str]:
    """Queues in which something waits too long, and how far the ladder has come there, JSON."""
    with store.errors("starvation"):
        found = store.redis.hgetall(store.keys.starving)
    return {queue.decode(): text.decode() for queue, text in found.items()}


def starving_queue(store: Store, queue: str) -> str:
    """The same of one queue; "" where nothing waits too long."""
    with store.errors("starvation"):
        text = store.redis.hget(store.keys.starving, queue)
    return "" if text is None else str(text.decode())


def watching(store: Store) -> str:
    """The passes that have watched the ladder, JSON; "" where none has."""
    with store.errors("starvation"):
        text = store.redis.get(store.keys.watching)
    return "" if text is None else str(text.decode())


def note_watching(store: Store, text: str) -> None:
    """Store that."""
    with store.errors("starvation"):
        store.redis.set(store.keys.watching, text)
