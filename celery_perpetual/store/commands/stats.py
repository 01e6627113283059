"""The work of the cycles of a namespace, added up, and the work that there is now."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class WorkCounts(NamedTuple):
    """How much there is now; each costs one step of the store, however much that is."""

    workers: int
    running: int
    open_batches: int
    needs_attention: int


def work_counts(store: Store) -> WorkCounts:
    """Living workers, leases, open batches and parked tasks."""
    keys, now = store.keys, store.now()
    with store.errors("counts"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.zcount(keys.workers, f"({now}", "+inf")
        pipe.hlen(keys.leases)
        pipe.zcard(keys.open)
        pipe.hlen(keys.parked)
        return WorkCounts(*(int(each) for each in pipe.execute()))


def add_pass(store: Store, counts: Mapping[str, int], errors: Mapping[str, str], kind: str = "cycle") -> None:
    """Add what one pass did to what all have done.

    Args:
        counts: by name; zeros cost nothing.
        errors: texts by the name of the step that failed.
        kind: ``cycle`` or ``rebuild``.
    """
    key, now = store.keys.stats, store.now()
    with store.errors("stats"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hsetnx(key, "since", now)
        pipe.hincrby(key, f"{kind}s", 1)
        pipe.hset(key, f"last_{kind}_at", now)
        for name, count in counts.items():
            if count:
                pipe.hincrby(key, name, count)
        for step, text in errors.items():
            pipe.hset(key, "last_error", json.dumps({"step": step, "error": text, "at": now}))
        pipe.execute()


def failed_step(store: Store) -> dict[str, Any] | None:
    """``step``, ``error`` and ``at`` (ms) of the last step that failed in the newest pass; None if none did."""
    with store.errors("stats"):
        last_at, text = store.redis.hmget(store.keys.stats, "last_cycle_at", "last_error")
    error: dict[str, Any] | None = json.loads(text) if text else None
    return error if error is not None and last_at is not None and error["at"] == int(last_at) else None


def stored_stats(store: Store) -> tuple[dict[str, str], dict[str, int]]:
    """The sums of all passes, by field, and the counters that scripts keep."""
    keys = store.keys
    with store.errors("stats"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hgetall(keys.stats)
        pipe.hgetall(keys.counters)
        stats, counters = pipe.execute()
    return (
        {name.decode(): text.decode() for name, text in stats.items()},
        {name.decode(): int(count) for name, count in counters.items()},
    )
