"""Keys that nothing would ever delete."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import CHUNK

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class Leaks(NamedTuple):
    """The finds of a walk through the keys of a namespace."""

    keys: list[str]
    """Those without an owner and without a TTL."""
    seen: int
    """How many keys were read."""
    is_whole: bool
    """Whether these were all."""


def leaked_keys(store: Store, most: int) -> Leaks:
    """Walk through at most about so many keys of the namespace, and look for the owner of each.

    A key may lose its owner while this runs, so what seems to have none is looked at a second time.
    """
    suspects: list[str] = []
    seen, is_whole = 0, True
    for part in _walk(store):
        suspects += _without_owner(store, part)
        seen += len(part)
        if seen >= most:
            is_whole = False
            break
    return Leaks(_without_owner(store, suspects), seen, is_whole)


def _walk(store: Store) -> Iterator[list[str]]:
    cursor, pattern = 0, f"{store.keys.prefix}:*"
    while True:
        with store.errors("keys"):
            cursor, found = store.redis.scan(cursor, match=pattern, count=CHUNK)
        yield [key.decode() for key in found]
        if not cursor:
            return


def _without_owner(store: Store, found: Sequence[str]) -> list[str]:
    owned = [(key, owner) for key in found if (owner := _owner(store, key)) is not None]
    if not owned:
        return []
    with store.errors("keys"):
        pipe = store.redis.pipeline(transaction=False)
        for key, (name, member) in owned:
            pipe.pttl(key)
            if member is None:
                pipe.exists(name)
            else:
                pipe.zscore(name, member)
        rows = iter(pipe.execute())
    return [key for (key, _), ttl, owner in zip(owned, rows, rows, strict=True) if ttl == -1 and not owner]


def _owner(store: Store, key: str) -> tuple[str, str | None] | None:
    """The entry of a sorted set, or the key, that a key belongs to; None for one that is bounded by itself."""
    keys = store.keys
    kind, _, rest = key.removeprefix(f"{keys.prefix}:").partition(":")
    if kind in {"u", "keys", "failed", "failures", "follow_ups", "polls"} and rest:
        return keys.units, rest
    if kind == "held" and rest:
        return keys.workers, rest
    if kind == "p" and rest:
        return keys.open, rest
    if kind in {"i", "d"} and rest:
        return keys.poll(rest.rpartition(":")[0]), None
    return None
