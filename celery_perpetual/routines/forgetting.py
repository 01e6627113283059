"""Forgets routines that have ended long ago."""

from __future__ import annotations

from celery_perpetual.routines.storage import Change, read_readable, write
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.routines import over_routines
from celery_perpetual.store.connection import Store

#: Most routines that one pass forgets.
MOST = 5_000


def forget_routines(store: Store) -> int:
    """Remove routines that ended ``perpetual_tombstone_ttl`` ago; returns how many.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    removed = 0
    for part in chunks(over_routines(store, store.now(), MOST)):
        changes = [Change(record, None, "deleted") for record in read_readable(store, part) if record.is_terminal]
        write(store, changes)  # none of them where one has been changed: the next pass has another try
        removed += len(changes)
    return removed
