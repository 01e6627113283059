"""Routines: their records, and the lists that they are on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import CHUNK, chunks, grouped
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class DueRoutines(NamedTuple):
    """The routines that are due."""

    now: int
    """The store's time."""
    following: int | None
    """When the next one is due, where none is now; None where there is none."""
    records: list[tuple[str, bytes]]
    """Id and record of each: those whose caller is gone that ran them, those whose pause is over, then what is due, by
    time."""


def due_routines(
    store: Store, until: int | None, limit: int, *, obeys: bool = False, owner: str = "", mark: int = 0
) -> DueRoutines | None:
    """The routines that are due at a time (ms), or now; none while all routines are paused.

    Args:
        store: where they are.
        until: the time; None is now.
        limit: most of each kind.
        obeys: whether there are none while everything is paused, either.
        owner: the beat that asks, "" where it is none.
        mark: the last mark of that beat, 0 for none.

    Returns:
        What is due; None where the store does not have the mark: it has gone back to an older state.
    """
    now, following, *rows = script("due_routines")(
        store, until_="" if until is None else until, limit=limit, obeys=int(obeys), owner=owner, mark=mark
    )
    if not now:
        return None
    records = [(name.decode(), text) for name, text in grouped(rows, 2) if text]
    return DueRoutines(int(now), int(float(following)) if following else None, records)


def routine_records(store: Store, ids: Sequence[str]) -> list[bytes | None]:
    """The records of routines, in their order."""
    found: list[bytes | None] = []
    for part in chunks(ids):
        with store.errors("routines"):
            found += store.redis.hmget(store.keys.routines, part)
    return found


def routine_and_time(store: Store, routine_id: str) -> tuple[bytes | None, int]:
    """The record of a routine, and the store's time (ms)."""
    with store.errors("routines"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hget(store.keys.routines, routine_id)
        pipe.time()
        text, (seconds, micros) = pipe.execute()
    return text, int(seconds) * 1000 + int(micros) // 1000


def routines_by_update(store: Store) -> Iterator[list[tuple[str, bytes]]]:
    """All routines, the one that was changed last first, at most 500 at a time."""
    skip = 0
    while True:
        with store.errors("routines"):
            ids = store.redis.zrange(store.keys.routines_updated, skip, skip + CHUNK - 1)
            if not ids:
                return
            texts = store.redis.hmget(store.keys.routines, ids)
        yield [(each.decode(), text) for each, text in zip(ids, texts, strict=True) if text is not None]
        skip += CHUNK


def routines_changed_after(store: Store, at: int, limit: int) -> list[str]:
    """Ids of routines that were changed behind a time (ms), which cannot be where that lies ahead."""
    with store.errors("routines"):
        found = store.redis.zrangebyscore(store.keys.routines_updated, "-inf", f"({-at}", 0, limit)
    return [each.decode() for each in found]


def due_ids(store: Store, until: int, limit: int | None, *, running: bool) -> list[tuple[str, int]]:
    """Ids and times (ms) of the routines that are due by then, or that run since a slot by then, the earliest first."""
    keys = store.keys
    part: tuple[int, int] | tuple[None, None] = (None, None) if limit is None else (0, limit)
    with store.errors("routines"):
        found = store.redis.zrangebyscore(
            keys.routines_running if running else keys.routines_due, "-inf", until, *part, withscores=True
        )
    return [(each.decode(), int(at)) for each, at in found]


def next_routine(store: Store) -> int | None:
    """When the first routine is due, ms."""
    with store.errors("routines"):
        found = store.redis.zrange(store.keys.routines_due, 0, 0, withscores=True)
    return int(found[0][1]) if found else None


def over_routines(store: Store, until: int, limit: int) -> list[str]:
    """Routines that have ended and may be forgotten by then (ms)."""
    with store.errors("routines"):
        return [each.decode() for each in store.redis.zrangebyscore(store.keys.routines_over, "-inf", until, 0, limit)]


def believe_inline(store: Store, routine_id: str, until: int) -> None:
    """A caller that runs a routine itself lives; it is believed until then (ms)."""
    with store.errors("routines"):
        store.redis.zadd(store.keys.routines_inline, {routine_id: until}, xx=True)


def clear_routines(store: Store) -> int:
    """Remove every routine, in one step; returns how many there were."""
    return int(script("clear_routines")(store))


def oldest_change(store: Store) -> int | None:
    """When the routine was changed that has not been changed for the longest, ms; None where there is none."""
    with store.errors("routines"):
        found = store.redis.zrange(store.keys.routines_updated, -1, -1, withscores=True)
    return -int(found[0][1]) if found else None


def doubt_inline(store: Store, latest: int, until: int) -> None:
    """Believe callers that run routines themselves no longer than until then, if it is after the latest that can be."""
    with store.errors("routines"):
        ahead = store.redis.zrangebyscore(store.keys.routines_inline, f"({latest}", "+inf")
        if ahead:
            store.redis.zadd(store.keys.routines_inline, dict.fromkeys(ahead, until), xx=True)
