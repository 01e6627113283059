"""Keys that nothing would ever delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.health.findings import STORE, WARNING, Finding
from celery_perpetual.store.commands.leaks import leaked_keys

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.health.reading import Reading

#: Keys that are walked through, and that are named.
MOST_KEYS, NAMED = 50_000, 3


def keys(reading: Reading) -> Iterator[Finding]:
    """Keys of the namespace without an owner and without a TTL."""
    found = leaked_keys(reading.store, MOST_KEYS)
    if not found.keys:
        return
    part = "" if found.is_whole else f" among the first {found.seen}"
    yield Finding(
        kind="leaked_keys", area=STORE, level=WARNING,
        evidence=f"{len(found.keys)} keys have no owner and no TTL{part}, such as {', '.join(found.keys[:NAMED])}",
        meaning="they stay for ever; a key was restored or written by hand, or this is a fault of the package",
        help="celery -A proj perpetual rebuild, as they may belong to open work whose list was deleted; else look at "
        f"one, report it, then redis-cli DEL {found.keys[0]}", about={"keys": len(found.keys)},
    )  # fmt: skip
