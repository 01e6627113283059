"""The stream of events, and consumer groups on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class StreamEntry(NamedTuple):
    """One entry; ``event`` is empty where the stream's cap has removed it meanwhile."""

    id: str
    event: str
    data: bytes


def add_event(store: Store, event: str, data: str, *, maxlen: int) -> None:
    """Append an event.

    Args:
        data: JSON.
        maxlen: of how many entries about the stream consists at most.
    """
    with store.errors("events"):
        store.redis.xadd(store.keys.events, {"event": event, "data": data}, maxlen=maxlen, approximate=True)


def newest_events(store: Store, event: str, count: int) -> list[bytes]:
    """Data of those among the newest ``count`` entries that have this name, the newest first."""
    with store.errors("events"):
        entries = store.redis.xrevrange(store.keys.events, count=count)
    return [fields[b"data"] for _, fields in entries if fields.get(b"event") == event.encode()]


def create_group(store: Store, group: str, first: str = "0") -> None:
    """Create a consumer group, unless there is one.

    Args:
        first: it begins behind this entry: ``0`` with the oldest, ``$`` with what comes from now on.
    """
    with store.errors("stream"):
        try:
            store.redis.xgroup_create(store.keys.events, group, id=first, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise


def own_entries(store: Store, group: str, consumer: str, *, count: int) -> list[StreamEntry] | None:
    """Entries that a consumer was given and has not acknowledged; None if there is no such group."""
    return _of_group(store, lambda key: _first(store.redis.xreadgroup(group, consumer, {key: "0"}, count=count)))


def next_entries(
    store: Store, group: str, consumer: str, *, count: int, idle_ms: int, block_ms: int
) -> list[StreamEntry] | None:
    """Entries that another consumer has held for ``idle_ms``, or else new ones, for which it waits ``block_ms``.

    None if there is no such group.
    """

    def read(key: str) -> list[Any]:
        taken_over = store.redis.xautoclaim(key, group, consumer, idle_ms, start_id="0-0", count=count)[1]
        return [entry for entry in taken_over if entry[1]] or _first(
            store.redis.xreadgroup(group, consumer, {key: ">"}, count=count, block=block_ms)
        )

    return _of_group(store, read)


def acknowledge_entry(store: Store, group: str, entry_id: str) -> None:
    """Say that a consumer is done with an entry."""
    with store.errors("stream"):
        store.redis.xack(store.keys.events, group, entry_id)


def _of_group(store: Store, read: Any) -> list[StreamEntry] | None:
    with store.errors("stream"):
        try:
            entries = read(store.keys.events)
        except ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            return None
    return [
        StreamEntry(entry.decode(), fields[b"event"].decode() if fields else "", fields[b"data"] if fields else b"")
        for entry, fields in entries
    ]


def _first(reply: Any) -> list[Any]:
    """Replies differ between protocol versions: a list of pairs, or a dict."""
    streams = reply.values() if isinstance(reply, dict) else [entries for _, entries in reply or ()]
    found: list[Any] = []
    for entries in streams:
        found += entries[0] if entries and isinstance(entries[0], list) else entries
    return found
