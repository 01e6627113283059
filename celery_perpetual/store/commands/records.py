"""Records of items, which of them have ended, and the item keys of a unit."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import CHUNK, chunks

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class Place(NamedTuple):
    """Where the record of an item is."""

    poll_id: str
    chunk: int
    position: int


class Stored(NamedTuple):
    """The record of an item, and the task that its batch is of."""

    record: bytes
    unit_task: str


class KeyFacts(NamedTuple):
    """The store's facts on one item key."""

    holder: str | None
    """Task id that holds it, also of a batch that is not committed."""
    last: str | None
    """Task id of its last end that was announced, as long as that is on record."""
    polled_by: str | None
    """Id of the unit's last poll that has ended."""


def done_bits(bitmap: bytes | None, position: int) -> bool:
    """Whether the item at a position of a chunk has ended."""
    if not bitmap or position // 8 >= len(bitmap):
        return False
    return bool(bitmap[position // 8] >> (7 - position % 8) & 1)


def open_records(
    store: Store, poll_id: str, chunk: int, first: int = 0, last: int = CHUNK - 1
) -> list[tuple[int, bytes]]:
    """Position and record of those items of a chunk that have not ended, from position ``first`` to ``last``."""
    with store.errors("records"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.lrange(store.keys.chunk(poll_id, chunk), first, last)
        pipe.get(store.keys.done(poll_id, chunk))
        records, done = pipe.execute()
    return [(at, record) for at, record in enumerate(records, first) if not done_bits(done, at)]


def done_records(store: Store, poll_id: str) -> dict[str, bytes]:
    """Task id -> record of the items of a batch that have ended, as far as other items of their chunks have not."""
    found: dict[str, bytes] = {}
    for chunk in count():
        with store.errors("records"):
            pipe = store.redis.pipeline(transaction=False)
            pipe.hget(store.keys.poll(poll_id), "n")
            pipe.lrange(store.keys.chunk(poll_id, chunk), 0, -1)
            pipe.get(store.keys.done(poll_id, chunk))
            total, records, done = pipe.execute()
        found |= {
            f"{poll_id[:28]}{chunk * CHUNK + at:08x}": record
            for at, record in enumerate(records)
            if done_bits(done, at)
        }
        if (chunk + 1) * CHUNK >= int(total or 0):
            return found
    return found


def open_positions(store: Store, poll_id: str, chunk: int) -> list[int]:
    """Positions of those items of a chunk that have not ended."""
    with store.errors("records"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.llen(store.keys.chunk(poll_id, chunk))
        pipe.get(store.keys.done(poll_id, chunk))
        length, done = pipe.execute()
    return [at for at in range(length) if not done_bits(done, at)]


def record_at(store: Store, place: Place) -> Stored | None:
    """The record of one item, None if it is not in the ledger any more."""
    with store.errors("records"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hget(store.keys.poll(place.poll_id), "task")
        pipe.lindex(store.keys.chunk(place.poll_id, place.chunk), place.position)
        unit_task, record = pipe.execute()
    return None if unit_task is None or record is None else Stored(record, unit_task.decode())


def records_at(store: Store, places: Sequence[Place]) -> list[Stored | None]:
    """The records of items, in their order; None for those that are not in the ledger any more."""
    keys, found = store.keys, list[Stored | None]()
    with store.errors("records"):
        for part in chunks(places):
            pipe = store.redis.pipeline(transaction=False)
            for place in part:
                pipe.hget(keys.poll(place.poll_id), "task")
                pipe.lindex(keys.chunk(place.poll_id, place.chunk), place.position)
            rows = iter(pipe.execute())
            found += [
                None if task is None or record is None else Stored(record, task.decode())
                for task, record in zip(rows, rows, strict=True)
            ]
    return found


def are_open(store: Store, places: Sequence[Place]) -> list[bool]:
    """Whether each of these items is in the ledger and has not ended."""
    keys = store.keys
    with store.errors("ledger"):
        pipe = store.redis.pipeline(transaction=False)
        for poll_id, chunk, position in places:
            pipe.exists(keys.poll(poll_id))
            pipe.lindex(keys.chunk(poll_id, chunk), position)
            pipe.getbit(keys.done(poll_id, chunk), position)
        rows = iter(pipe.execute())
    return [
        bool(known) and record is not None and not done for known, record, done in zip(rows, rows, rows, strict=True)
    ]


def chunk_keys(store: Store, poll_id: str) -> list[str]:
    """Keys of the chunks of a poll, committed or not, as many as there are in a row."""
    found: list[str] = []
    with store.errors("records"):
        for chunk in count():
            key = store.keys.chunk(poll_id, chunk)
            if not store.redis.exists(key):
                return found
            found.append(key)
    return found


def item_keys(store: Store, unit: str) -> dict[str, str]:
    """The item keys of a unit that are in flight, and the task ids that hold them."""
    with store.errors("item keys"):
        walk = store.redis.hscan_iter(store.keys.item_keys(unit), count=CHUNK)
        return {key.decode(): task_id.decode() for key, task_id in walk}


def key_facts(store: Store, unit: str, key: str) -> KeyFacts:
    """The store's facts on an item key of a unit."""
    keys = store.keys
    with store.errors("item key"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hget(keys.item_keys(unit), key)
        pipe.hget(keys.recent(unit), key)
        pipe.hget(keys.recent_before(unit), key)
        pipe.hget(keys.unit(unit), "last")
        pipe.time()
        holder, ended, ended_before, polled_by, (seconds, micros) = pipe.execute()
    at, _, last = (ended or ended_before or b"0 ").partition(b" ")
    is_on_record = seconds * 1000 + micros // 1000 - int(at) <= store.limits.completion_ttl
    last = last if is_on_record else b""
    return KeyFacts(*(each.decode() if each else None for each in (holder, last, polled_by)))
