"""Batches: their counters, and the lists of those for which something is left to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual.store.chunks import CHUNK, chunks

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


#: The kind of owner that there is.
UNIT = "unit"


class Batch(NamedTuple):
    """The facts of one committed batch."""

    task: str
    """Name of the perpetual task whose poll it is."""
    total: int
    left: int
    """Items that have not ended."""
    published: int
    published_at: int | None
    """When the last message was published, ms of the store's time."""
    moved: bool
    """Whether an item has sent a retry or a replacement of itself."""
    owner: str = UNIT
    """Kind of what it belongs to, and what hears of its last end."""


def batch(store: Store, poll_id: str) -> Batch | None:
    """The facts of a batch, None if the store does not know it."""
    return batches_of(store, [poll_id])[0]


def batches_of(store: Store, poll_ids: Sequence[str]) -> list[Batch | None]:
    """The facts of batches, in their order; None for those that the store does not know."""
    if not poll_ids:
        return []
    with store.errors("batch"):
        pipe = store.redis.pipeline(transaction=False)
        for poll_id in poll_ids:
            pipe.hmget(store.keys.poll(poll_id), "task", "n", "left", "pub", "pub_at", "moved", "owner")
        return [_batch(*facts) for facts in pipe.execute()]


def _batch(
    task: bytes | None, total: bytes, left: bytes, published: bytes, at: bytes | None, moved: bytes | None,
    owner: bytes | None,
) -> Batch | None:  # fmt: skip
    if task is None:
        return None
    return Batch(
        task.decode(), int(total), int(left), int(published), None if at is None else int(at), bool(moved),
        (owner or UNIT.encode()).decode(),
    )  # fmt: skip


def tenant_of_batch(store: Store, poll_id: str) -> Any:
    """The tenant whose poll a batch is of; None without a fan-out, and where the store does not know the batch."""
    with store.errors("batch"):
        tenant = store.redis.hget(store.keys.poll(poll_id), "tenant")
    return None if tenant is None else json.loads(tenant)


def ends_of_batch(store: Store, poll_id: str, statuses: Sequence[str]) -> dict[str, int]:
    """How many items ended with each status; those that none ended with are left out."""
    with store.errors("batch"):
        counts = store.redis.hmget(store.keys.poll(poll_id), statuses)
    return {status: int(count) for status, count in zip(statuses, counts, strict=True) if count}


class Commit(NamedTuple):
    """Whose batch it is, and when it was committed."""

    unit: str
    at: int
    """Milliseconds of the store's time."""


def commits(store: Store, poll_ids: Sequence[str]) -> dict[str, Commit]:
    """The commits of these batches, as far as the store knows them and they are those of units."""
    found: dict[str, Commit] = {}
    for part in chunks(poll_ids):
        with store.errors("batches"):
            pipe = store.redis.pipeline(transaction=False)
            for poll_id in part:
                pipe.hmget(store.keys.poll(poll_id), "unit", "at")
            rows = pipe.execute()
        found |= {
            poll_id: Commit(unit.decode(), int(at))
            for poll_id, (unit, at) in zip(part, rows, strict=True) if unit and at
        }  # fmt: skip
    return found


def known_batches(store: Store, poll_ids: Sequence[str]) -> set[str]:
    """Those of the polls whose batch is committed and not forgotten."""
    if not poll_ids:
        return set()
    with store.errors("batches"):
        pipe = store.redis.pipeline(transaction=False)
        for poll_id in poll_ids:
            pipe.exists(store.keys.poll(poll_id))
        return {poll_id for poll_id, known in zip(poll_ids, pipe.execute(), strict=True) if known}


def remove_unpublished(store: Store, poll_id: str) -> None:
    """Take a batch off the outbox that the store does not know any more."""
    remove_entry(store, store.keys.outbox, poll_id)


def remove_unsent(store: Store, poll_id: str) -> None:
    """Take a batch off that list that has nothing to be sent."""
    remove_entry(store, store.keys.batches, poll_id)


def open_batches(store: Store, since: str, until: int, limit: int, skip: int = 0) -> list[tuple[str, float]]:
    """Unfinished batches that were committed from ``since`` to ``until`` (ms), and when.

    Args:
        since: as ZRANGEBYSCORE takes it: ``-inf``, or ``(`` and a time that is left out.
        skip: how many of the oldest are left out.
    """
    with store.errors("batches"):
        found = store.redis.zrangebyscore(store.keys.open, since, until, skip, limit, withscores=True)
    return [(poll_id.decode(), at) for poll_id, at in found]


def open_batches_of(store: Store, unit: str) -> Iterator[tuple[str, int]]:
    """Unfinished batches of one unit, oldest first, and of how many items they are."""
    skip = 0
    while True:
        with store.errors("batches"):
            ids = [poll_id.decode() for poll_id in store.redis.zrange(store.keys.open, skip, skip + CHUNK - 1)]
            pipe = store.redis.pipeline(transaction=False)
            for poll_id in ids:
                pipe.hmget(store.keys.poll(poll_id), "unit", "n")
            rows = pipe.execute()
        yield from (
            (poll_id, int(count)) for poll_id, (owner, count) in zip(ids, rows, strict=True) if owner == unit.encode()
        )
        skip += CHUNK
        if len(ids) < CHUNK:
            return


def items_in_flight(store: Store) -> int:
    """How many items of the ledger have not ended, those of routines among them."""
    skip = total = 0
    while True:
        with store.errors("batches"):
            ids = store.redis.zrange(store.keys.open, skip, skip + CHUNK - 1)
            pipe = store.redis.pipeline(transaction=False)
            for poll_id in ids:
                pipe.hget(store.keys.poll(poll_id.decode()), "left")
            total += sum(int(left or 0) for left in pipe.execute())
        skip += CHUNK
        if len(ids) < CHUNK:
            return total


def remove_entry(store: Store, waiting: str, entry: str) -> None:
    """Take an entry off a list of waiting things, a sorted set."""
    with store.errors("waiting"):
        store.redis.zrem(waiting, entry)
