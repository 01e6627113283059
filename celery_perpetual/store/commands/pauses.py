"""Stored pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def stored_pauses(store: Store) -> dict[str, bytes]:
    """Every stored pause by its scope, also those whose time is over; JSON."""
    with store.errors("pauses"):
        stored = store.redis.hgetall(store.keys.paused)
    return {scope.decode(): text for scope, text in stored.items()}
