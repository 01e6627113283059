"""Sweeps records that were staged for a commit that never came."""

from __future__ import annotations

from celery_perpetual.ledger.ids import base
from celery_perpetual.store import Store, script

#: A commit follows its staging within seconds; a claim that is still open protects its records anyway.
PATIENCE_MS = 60_000


def sweep_staged(store: Store, limit: int = 10) -> int:
    """Remove records and item keys of polls that ended without a commit; returns how many chunks that were."""
    keys = store.keys
    with store.errors("staged"):
        entries = store.redis.zrangebyscore(keys.staged, "-inf", store.now() - PATIENCE_MS, 0, limit)
    removed = 0
    for entry in entries:
        poll_id, _, unit = entry.decode().partition(" ")
        chunk = 0
        while (
            script("unstage")(
                store, key=keys.unit(unit), batch=keys.poll(poll_id), chunk=keys.chunk(poll_id, chunk),
                item_keys=keys.item_keys(unit), staged=keys.staged, poll=poll_id, unit=unit, base=base(poll_id),
            )
            == 1
        ):  # fmt: skip
            chunk += 1
        removed += chunk
    return removed
