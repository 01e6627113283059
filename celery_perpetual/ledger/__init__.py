"""The ledger of unfinished items."""

from __future__ import annotations

from celery_perpetual.ledger.ids import (
    BATCH_INDEX,
    CHUNK,
    Place,
    base,
    item_id,
    item_place,
    item_slots,
    new_poll_id,
    new_poll_ids,
    place,
)
from celery_perpetual.ledger.ledger import Closing, Ledger, chunks
from celery_perpetual.ledger.record import Record, arguments, decode, encode, loaded, opened, read_work
from celery_perpetual.ledger.staged import sweep_staged

__all__ = [
    "BATCH_INDEX", "CHUNK", "Closing", "Ledger", "Place", "Record", "arguments", "base", "chunks", "decode", "encode",
    "item_id", "item_place", "item_slots", "loaded", "new_poll_id", "new_poll_ids", "opened", "place", "read_work",
    "sweep_staged",
]  # fmt: skip
