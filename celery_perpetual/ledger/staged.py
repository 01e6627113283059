"""Sweeps records that were staged for a commit that never came."""

from __future__ import annotations

from typing import Any

from celery_perpetual import events
from celery_perpetual.ledger.ids import base
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.records import chunk_keys, item_keys
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit

#: A commit follows its staging within seconds; a claim that is still open protects its records anyway.
PATIENCE_MS = 60_000


def staged_list(store: Store) -> WorkList:
    """The polls whose records wait for a commit."""
    return WorkList(store, store.keys.staged, _report, patience_ms=PATIENCE_MS)


def sweep_staged(store: Store, staged: WorkList, limit: int = 10) -> int:
    """Remove item keys and records of polls that ended without a commit; returns how many polls that were.

    It goes by the item keys, not by the records, which may have expired; cut short it starts anew the next time.
    """
    return staged.work_off(lambda entry: _sweep(store, *entry.split(" ", 1)), limit)


def _report(entry: str, error: Exception) -> None:
    emit(events.PART_FAILED, part=f"the removal of staged records of poll {entry}", error=error)


def _sweep(store: Store, poll_id: str, unit: str) -> int:
    keys, own = store.keys, base(poll_id)

    def unstage(items: Any = (), records: Any = (), *, last: bool = False) -> bool:
        reply = script("unstage")(
            store, unit_hash=keys.unit(unit), batch=keys.poll(poll_id), item_keys=keys.item_keys(unit), records=records,
            poll=poll_id, unit=unit, base=own, last=int(last), items=items,
        )  # fmt: skip
        return bool(reply)

    held = [key for key, holder in item_keys(store, unit).items() if holder.startswith(own)]
    return int(all(unstage(part) for part in chunks(held)) and unstage(records=chunk_keys(store, poll_id), last=True))
