"""Where messages of items went, as their batch keeps it, in the form of ``celery_perpetual.broker``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def published_to(store: Store, poll_id: str, chunks: Sequence[int]) -> list[bytes | None]:
    """Where the items of some chunks were published to; None where that is not known."""
    return _fields(store, poll_id, [f"to:{chunk}" for chunk in chunks])


def sent_later_to(store: Store, poll_id: str, indexes: Sequence[int]) -> list[bytes | None]:
    """Where the newest retries or replacements of some items were sent to; None where there is none."""
    return _fields(store, poll_id, [f"at:{index}" for index in indexes])


def _fields(store: Store, poll_id: str, fields: Sequence[str]) -> list[bytes | None]:
    if not fields:
        return []
    with store.errors("batch"):
        found: list[bytes | None] = store.redis.hmget(store.keys.poll(poll_id), fields)
    return found
