"""From what ``next_batch`` returned to the items that are new."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery import Signature

from celery_perpetual.errors import BatchTooLarge, ContractError, InvalidItem, short
from celery_perpetual.failures.backoff import SHORTEST_MS
from celery_perpetual.ledger.item import CheckedItem, ItemReader
from celery_perpetual.ledger.ledger import Ledger, Taken
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.gates import Closed, full
from celery_perpetual.settings import seconds
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.one_ahead import OneAhead
from celery_perpetual.tasks.items import UNSET, Batch, Defer, Item, Pause, Skip
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery import Celery


@dataclass(slots=True)
class ReadBatch:
    """The items that one poll brought."""

    items: list[CheckedItem] = field(default_factory=list)
    """New items, in order; they fit, unless a gate is closed."""
    read: int = 0
    duplicates: int = 0
    held_back: int = 0
    has_failed: bool = False
    """A key of the new items has failed before."""
    left_out: int = 0
    cursor: str = ""
    """JSON, or "" where the cursor stays."""
    more: bool = False
    watermark: datetime | None = None
    follow_ups: int = 0
    """How many follow-ups it was made of, the duplicates included."""
    closed: Closed | None = None
    """A batch with a cursor is taken as a whole or not at all; the gate that keeps it out."""

    def add(self, part: _Sorted) -> None:
        """Add the next part."""
        self.duplicates += part.duplicates
        self.held_back += part.held_back
        self.has_failed |= part.has_failed
        self.items += part.fresh

    @property
    def facts(self) -> dict[str, Any]:
        """The counts for the poll's outcome."""
        return {
            "cursor": self.cursor, "duplicates": self.duplicates, "held_back": self.held_back,
            "left_out": self.left_out, "watermark": self.watermark,
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
        return Defer(timedelta(seconds=max(after, SHORTEST_MS / 1000)))
    batch = result if isinstance(result, Batch) else Batch(result)
    entries = entries_of(f"{name}.next_batch", batch.items)
    try:
        return _found(app, ledger, claim, batch, entries)
    finally:
        close = getattr(batch.items, "close", None)
        if isinstance(batch.items, Iterator) and close is not None:
            close()


def _found(app: Celery, ledger: Ledger, claim: Claim, batch: Batch, entries: Iterator[Any]) -> ReadBatch:
    contract = claim.contract
    whole = batch.cursor is not UNSET
    cursor = cursor_text(f"{contract.name}.next_batch: the cursor", batch.cursor) if whole else ""
    found = ReadBatch(cursor=cursor, more=batch.more)
    found.watermark = _watermark(contract.name, batch.watermark)
    room, longest = contract.max_in_flight - claim.in_flight, contract.options.limit
    if whole:
        longest = max(longest, claim.rows.count)
    most = longest if whole else min(room, contract.options.limit)
    reader, seen, in_flight, asked = ItemReader(app, contract), set[str](), 0, 0
    with OneAhead[_Sorted]() as call:
        while True:
            # A part is read while the store is asked for the keys of the one before, unless that one may be enough.
            is_enough = len(found.items) + asked >= most
            part = [] if is_enough else list(islice(entries, CHUNK))
            if claim.abandoned:
                raise Abandoned
            items = reader.read_part(found.read, part)
            found.read += len(part)
            if (part_of := call.reply()) is not None:
                in_flight += part_of.in_flight
                found.add(part_of)
            asked = len(items)
            if (whole and found.read > longest) or (not part and (not is_enough or len(found.items) >= most)):
                break
            if part:
                call.begin(begin_sorting(ledger, claim, items, seen))
    if whole and (found.read > longest or next(entries, None) is not None):
        raise BatchTooLarge(
            f"{contract.name}.next_batch returned a Batch with a cursor and more than {longest} "
            "items; read at most poll.limit rows, or raise the perpetual option limit"
        )
    if not whole:
        found.left_out = max(0, len(found.items) - most) + _rest(batch.items, found.read)
        del found.items[most:]
    if whole:
        found.closed = _gate_of_whole(claim, found, in_flight)
    return found


def _gate_of_whole(claim: Claim, found: ReadBatch, in_flight: int) -> Closed | None:
    """The gate that keeps a batch with a cursor out."""
    options, needed = claim.contract.options, claim.in_flight + len(found.items)
    if needed > claim.contract.max_in_flight:
        return full(claim, needed)
    if found.cursor == (claim.cursor or "null"):
        return None
    # The cursor would pass what is left out, and what has changed of it since its task began would never be worked on.
    if found.held_back:
        return Closed(gate="items_held_back", value=found.held_back, limit=0)
    if in_flight and not options.dedup_window:
        return Closed(gate="items_in_flight", value=in_flight, limit=0)
    return None


@dataclass(slots=True)
class _Sorted:
    """The entries of one part of a batch."""

    fresh: list[CheckedItem] = field(default_factory=list)
    duplicates: int = 0
    """Their key is in flight, or earlier in this batch, where the first one wins."""
    in_flight: int = 0
    """Those of the duplicates whose key is in flight."""
    held_back: int = 0
    has_failed: bool = False
    """A key of the fresh ones has failed before."""


def sort_items(
    ledger: Ledger, claim: Claim, items: list[CheckedItem], seen: set[str], *, backs_off: bool = True
) -> _Sorted:
    """Part the items into the new ones and those that are left out.

    Args:
        seen: keys of earlier parts; those of these items are added.
        backs_off: leave out keys that have failed; what is left out has to be offered again.
    """
    return begin_sorting(ledger, claim, items, seen, backs_off=backs_off)()


def begin_sorting(
    ledger: Ledger, claim: Claim, items: list[CheckedItem], seen: set[str], *, backs_off: bool = True
) -> Callable[[], _Sorted]:
    """Ask the store for the keys of items, and return what waits for the answer and sorts them."""
    options = claim.contract.options
    keys = list({item.key for item in items if item.key is not None} - seen)
    since = min(claim.now, claim.store_time - ms(options.dedup_window))
    backs_off = backs_off and options.failed_keys is not None
    # Without any key nothing is asked.
    answer = ledger.begin_taken(claim.unit.name, keys, claim.poll_id, since=since, backs_off=backs_off)
    return lambda: _sorted(items, keys, answer(), seen)


def _sorted(items: list[CheckedItem], keys: list[str], taken: Taken, seen: set[str]) -> _Sorted:
    """The items by the store's answer.

    Args:
        keys: those of the items that were asked for, each once.
    """
    if len(keys) == len(items) and not any(taken):  # as nearly all parts are
        seen.update(keys)
        return _Sorted(items)
    found = _Sorted()
    for item in items:
        if item.key is None:
            found.fresh.append(item)
        elif item.key in seen:
            found.duplicates += 1
        else:
            seen.add(item.key)
            if item.key in taken.held_back:
                found.held_back += 1
            elif item.key in taken.in_flight:
                found.duplicates += 1
                found.in_flight += 1
            else:
                found.fresh.append(item)
                found.has_failed |= item.key in taken.failed
    return found


def _rest(items: Iterable[Any], read: int) -> int:
    """How many entries were not even read; a generator does not say."""
    try:
        return max(0, len(items) - read)  # type: ignore[arg-type]
    except TypeError:
        return 0


def entries_of(function: str, items: Any) -> Iterator[Any]:
    """The items one by one; one item by itself is not a list of items."""
    single = (str, bytes, Mapping, Signature, Item)
    if isinstance(items, single) or not isinstance(items, Iterable):
        raise InvalidItem(
            f"{function} returned {type(items).__name__} {str(items)[:80]!r}; return a list (or any iterable) "
            "of items, a Batch, Skip, Defer, Pause, or None"
        )
    return iter(items)


def _watermark(name: str, seen: Any) -> datetime | None:
    if seen is not None and not (isinstance(seen, datetime) and seen.tzinfo is not None):
        raise ContractError(f"{name}.next_batch: the watermark must be an aware datetime, got {seen!r}")
    return seen


def cursor_text(name: str, cursor: Any) -> str:
    """A cursor as it is stored.

    Raises:
        ContractError: it is no JSON value.
    """
    try:
        return json.dumps(cursor, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(f"{name} must be a JSON value, got {short(cursor)} ({error})") from None
