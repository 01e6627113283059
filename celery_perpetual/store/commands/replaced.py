"""Items that replaced themselves by several tasks and have not ended for long, as the maintenance passes note them.

What replaces an item are messages of ordinary tasks, of which nothing is stored. So no script works the list off, and
an item may have ended since it was noted: who reads the list asks for its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import CHUNK, chunks
from celery_perpetual.store.commands.leases import leases_of, states_of
from celery_perpetual.store.work_list import AHEAD_MS

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: The state of an item that has replaced itself by several tasks.
REPLACED = "delegated"

#: Items on the list.
MOST_NOTED = 10_000


class Replaced(NamedTuple):
    """An item that replaced itself long ago."""

    task_id: str
    since: int
    """When it did, ms of the store's time."""
    task: str
    """Name of its task."""


def note_replaced(store: Store, found: Mapping[str, int]) -> None:
    """Put items on the list, with the time (ms) of their replacement; what is on it keeps its time."""
    if not found:
        return
    with store.errors("replaced items"):
        room = MOST_NOTED - store.redis.zcard(store.keys.replaced)
        if new := dict(list(found.items())[: max(0, room)]):
            store.redis.zadd(store.keys.replaced, new, nx=True)


def long_replaced(store: Store) -> list[Replaced]:
    """The items on the list of which that is so still, the oldest first."""
    return [each for _, each in _listed(store) if each is not None]


def trim_replaced(store: Store) -> dict[str, int]:
    """Take those off the list that have ended, or go on by themselves; returns the others, and since when."""
    listed = list(_listed(store))
    remove_replaced(store, [task_id for task_id, each in listed if each is None])
    return {each.task_id: each.since for _, each in listed if each is not None}


def remove_replaced(store: Store, ids: Iterable[str]) -> None:
    """Take items off the list."""
    for part in chunks(ids):
        with store.errors("replaced items"):
            store.redis.zrem(store.keys.replaced, *part)


def _listed(store: Store) -> Iterator[tuple[str, Replaced | None]]:
    """The ids on the list, and what is true of each now; None: it is not as it was noted."""
    for first in range(0, MOST_NOTED, CHUNK):
        with store.errors("replaced items"):
            found = store.redis.zrange(store.keys.replaced, first, first + CHUNK - 1, withscores=True)
        if found:
            latest, ids = store.now() + AHEAD_MS, [task_id.decode() for task_id, _ in found]
            for (_, at), task_id, lease, state in zip(
                found, ids, leases_of(store, ids), states_of(store, ids), strict=True
            ):
                # A time that lies ahead is of before the clock was set back, so it was noted when it was seen.
                is_so = state is not None and state.flag == REPLACED and (state.since <= at or state.since > latest)
                yield task_id, Replaced(task_id, int(at), state.task) if state and is_so and not lease else None
        if len(found) < CHUNK:
            return
