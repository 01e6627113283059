"""The stored outcomes of a unit, newest first."""

from __future__ import annotations

from celery_perpetual.polling.outcome import PollOutcome, from_entry
from celery_perpetual.store import Store

#: A unit that is not polled any more is forgotten after this time.
HISTORY_TTL_MS = 30 * 24 * 3600 * 1000


def outcomes(store: Store, unit: str, limit: int) -> list[PollOutcome]:
    """The newest ``limit`` outcomes of a unit."""
    with store.errors("outcomes"):
        entries = store.redis.lrange(store.keys.polls(unit), 0, limit - 1)
    return [from_entry(entry) for entry in entries]
