"""The stored results of preflights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def stored_preflights(store: Store, names: Sequence[str]) -> list[bytes | None]:
    """The stored result of each, None without one."""
    with store.errors("preflights"):
        found: list[bytes | None] = store.redis.mget([store.keys.preflight(name) for name in names])
    return found


def store_preflight(store: Store, name: str, text: str, *, ttl_ms: int) -> None:
    """Remember how a preflight has ended."""
    with store.errors("preflights"):
        store.redis.set(store.keys.preflight(name), text, px=max(1, ttl_ms))
