"""From what ``next_batch`` returned to the items that are new."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery import Signature

from celery_perpetual.errors import BatchTooLarge, ContractError, InvalidItem
from celery_perpetual.ledger.item import CheckedItem, ItemReader
from celery_perpetual.ledger.ledger import Ledger
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.gates import Closed, full
from celery_perpetual.settings import seconds
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.tasks.items import UNSET, Batch, Defer, Item, Pause, Skip
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery import Celery


#: Seconds. A unit that defers for less would be polled without a pause.
SHORTEST_DEFER = 0.1


@dataclass(slots=True)
class ReadBatch:
    """What one poll brought."""

    items: list[CheckedItem] = field(default_factory=list)
    """New items, in order; they fit, unless a gate is closed."""
    read: int = 0
    duplicates: int = 0
    left_out: int = 0
    cursor: str = ""
    """JSON, or "" where the cursor stays."""
    more: bool = False
    watermark: datetime | None = None
    closed: Closed | None = None
    """A batch with a cursor is taken as a whole or not at all; the gate that keeps it out."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the poll's outcome says of it."""
        return {
            "cursor": self.cursor, "duplicates": self.duplicates, "left_out": self.left_out,
            "watermark": self.watermark,
        }  # fmt: skip


class Abandoned(Exception):
    """The poll ran out of time while its result was read."""


def read(app: Celery, ledger: Ledger, claim: Claim, result: Any) -> ReadBatch | Skip | Defer | Pause:
    """Check and reduce a result.

    Raises:
        InvalidItem: something in it cannot become a task.
        BatchTooLarge: a batch with a cursor is longer than ``limit``.
        ContractError: a cursor that is not JSON, or a wrong ``Defer``.
        Abandoned: the time limit passed meanwhile.
    """
    if result is None:
        return ReadBatch()
    if isinstance(result, Skip | Pause):
        return result
    name = claim.contract.name
    if isinstance(result, Defer):
        after = seconds(f"{name}.next_batch: Defer(after)", result.after, error=ContractError)
        return Defer(timedelta(seconds=max(after, SHORTEST_DEFER)))
    batch = result if isinstance(result, Batch) else Batch(result)
    entries = _entries(name, batch.items)
    try:
        return _found(app, ledger, claim, batch, entries)
    finally:
        close = getattr(batch.items, "close", None)
        if isinstance(batch.items, Iterator) and close is not None:
            close()


def _found(app: Celery, ledger: Ledger, claim: Claim, batch: Batch, entries: Iterator[Any]) -> ReadBatch:
    contract = claim.contract
    whole = batch.cursor is not UNSET
    found = ReadBatch(cursor=_cursor(contract.name, batch.cursor) if whole else "", more=batch.more)
    found.watermark = _watermark(contract.name, batch.watermark)
    room = contract.max_in_flight - claim.in_flight
    most = contract.options.limit if whole else min(room, contract.options.limit)
    reader, seen, in_flight = ItemReader(app, contract), set[str](), 0
    while len(found.items) < most:
        part = list(islice(entries, CHUNK))
        if claim.abandoned:
            raise Abandoned
        if not part:
            break
        items = [reader.read(found.read + at, entry) for at, entry in enumerate(part)]
        found.read += len(part)
        if whole and found.read > contract.options.limit:
            break
        fresh, held = _fresh(ledger, claim, items, seen)
        in_flight += held
        found.duplicates += len(items) - len(fresh)
        found.items += fresh
    if whole and (found.read > contract.options.limit or next(entries, None) is not None):
        raise BatchTooLarge(
            f"{contract.name}.next_batch returned a Batch with a cursor and more than {contract.options.limit} "
            "items; read at most poll.limit rows, or raise the perpetual option limit"
        )
    if not whole:
        found.left_out = max(0, len(found.items) - most) + _rest(batch.items, found.read)
        del found.items[most:]
    if whole and len(found.items) > room:
        found.closed = full(claim, claim.in_flight + len(found.items))
    elif whole and in_flight and not contract.options.dedup_window and found.cursor != json.dumps(claim.cursor):
        # The cursor would pass them, and what has changed of them since their tasks began would never be worked on.
        found.closed = Closed(gate="items_in_flight", value=in_flight, limit=0)
    return found


def _fresh(ledger: Ledger, claim: Claim, items: list[CheckedItem], seen: set[str]) -> tuple[list[CheckedItem], int]:
    """Items whose key is neither taken nor earlier in this batch, where the first one wins; and how many are taken."""
    contract = claim.contract
    keys = list({item.key for item in items if item.key is not None} - seen)
    since = min(claim.now, claim.store_time - ms(contract.options.dedup_window))
    taken = ledger.taken(claim.unit.name, keys, claim.poll_id, since=since) if keys else ()
    fresh, held = [], 0
    for item in items:
        if item.key is None:
            fresh.append(item)
        elif item.key not in seen:
            seen.add(item.key)
            if item.key in taken:
                held += 1
            else:
                fresh.append(item)
    return fresh, held


def _rest(items: Iterable[Any], read: int) -> int:
    """What was not even read; a generator does not say."""
    try:
        return max(0, len(items) - read)  # type: ignore[arg-type]
    except TypeError:
        return 0


def _entries(name: str, items: Any) -> Iterator[Any]:
    """The items one by one; one item by itself is not a list of items."""
    single = (str, bytes, Mapping, Signature, Item)
    if isinstance(items, single) or not isinstance(items, Iterable):
        raise InvalidItem(
            f"{name}.next_batch returned {type(items).__name__} {str(items)[:80]!r}; return a list (or any iterable) "
            "of items, a Batch, Skip, Defer, Pause, or None"
        )
    return iter(items)


def _watermark(name: str, seen: Any) -> datetime | None:
    if seen is not None and not (isinstance(seen, datetime) and seen.tzinfo is not None):
        raise ContractError(f"{name}.next_batch: the watermark must be an aware datetime, got {seen!r}")
    return seen


def _cursor(name: str, cursor: Any) -> str:
    try:
        return json.dumps(cursor)
    except (TypeError, ValueError) as error:
        raise ContractError(f"{name}.next_batch: the cursor must be a JSON value, got {cursor!r} ({error})") from None
