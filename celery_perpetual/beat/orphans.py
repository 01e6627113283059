"""Orphans: units that the store remembers and no leader knows any more."""

from __future__ import annotations

from collections.abc import Set as AbstractSet

from celery_perpetual.store import Store, script

#: A deploy that is rolled back within this time finds its units as it left them.
AGE_MS = 7 * 24 * 3600 * 1000


def drop_orphans(store: Store, known: AbstractSet[str], limit: int = 100) -> int:
    """Forget units that nobody has known for a week, but never a cursor; returns how many."""
    keys = store.keys
    with store.errors("orphans"):
        old = store.redis.zrangebyscore(keys.units, "-inf", store.now() - AGE_MS, 0, limit)
    return sum(
        script("drop_unit")(
            store, key=keys.unit(unit), units=keys.units, due=keys.due, polls=keys.polls(unit), unit=unit, age=AGE_MS
        )
        == 1
        for unit in (name.decode() for name in old)
        if unit not in known
    )
