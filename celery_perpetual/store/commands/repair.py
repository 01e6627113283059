"""Walks over all records of a namespace, for a repair by hand: the only code that scans the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from celery_perpetual.store.chunks import CHUNK

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def suffixes(store: Store, prefix: str) -> Iterator[str]:
    """The rests of the names of all keys that begin with a prefix, none twice."""
    pattern, seen = "".join(f"\\{each}" if each in "*?[]\\^" else each for each in prefix) + "*", set[bytes]()
    with store.errors("scan"):
        for key in store.redis.scan_iter(match=pattern, count=1000):
            if key not in seen:
                seen.add(key)
                yield key.decode().removeprefix(prefix)


def hash_pages(store: Store, key: str) -> Iterator[list[tuple[str, bytes]]]:
    """All fields of a hash, some at a time; one may come twice."""
    cursor = 0
    while True:
        with store.errors("scan"):
            cursor, found = store.redis.hscan(key, cursor, count=CHUNK)
        if found:
            yield [(field.decode(), value) for field, value in found.items()]
        if not cursor:
            return


def members(store: Store, key: str) -> list[str]:
    """All members of a sorted set."""
    with store.errors("scan"):
        return [member.decode() for member in store.redis.zrange(key, 0, -1)]


def times_of(store: Store, key: str, ids: list[str]) -> list[float | None]:
    """The scores of members of a sorted set, in their order."""
    with store.errors("scan"):
        found: list[float | None] = store.redis.zmscore(key, ids) if ids else []
    return found


def fields_of(store: Store, key: str, fields: list[str]) -> list[bytes | None]:
    """The values of fields of a hash, in their order."""
    with store.errors("scan"):
        found: list[bytes | None] = store.redis.hmget(key, fields) if fields else []
    return found
