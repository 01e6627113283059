"""Every key of the store: its row in the table of keys, and what bounds it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from celery_perpetual.store import keys as key_table

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis


PREFIX = "perpetual"


UNITS = (
    "perpetual:proj.batched", "perpetual:proj.empty", "perpetual:proj.failing", "perpetual:proj.fan:acme", "perpetual:proj.fan:shop",
    "perpetual:proj.fetch", "perpetual:proj.large", "perpetual:proj.own", "perpetual:proj.pausing", "perpetual:proj.skipping",
    "perpetual:proj.timing%3Aout",
)  # fmt: skip


#: Keys that may stay without a TTL when everything has ended, and what bounds them.
PERMANENT = {
    "term": "one key",
    "epoch": "one key",
    "marks": "one entry per beat of the last day",
    "units": "one entry per unit",
    "due": "one entry per unit",
    "u:{unit}": "one key per unit",
    "cursors": "one entry per unit",
    "tenants:{task}": "one entry per tenant that is known or has gone lately",
    "failed:{unit}": "one entry per key that has failed and not succeeded since; trimmed a week after its hold",
    "failures:{unit}": "the same",
    "base": "one entry per entry of the base scheduler",
    "counters": "one key",
    "alerts": "one entry per alert that is on, at most a thousand",
    "stats": "one key, with a field for each number of a pass",
    "token": "one key",
    "seen": "one key",
    "watching": "one key",
    "events": "capped by perpetual_events_maxlen",
    "routines": "one entry per routine; one that has ended is forgotten after perpetual_tombstone_ttl",
    "routines:due": "the same",
    "routines:updated": "the same",
    "routines:over": "the same",
    "routines:keys": "the same",
}


#: Counters of the namespace.
COUNTERS = {"late", "recovered", "leases_lost", *(f"dropped_{why}" for why in ("final", "parked", "old", "adopted"))}


def table() -> dict[str, str]:
    """Key and type of every row of the table in the store's module, keys without the prefix."""
    lines = (key_table.__doc__ or "").splitlines()
    rows = [re.fullmatch(r"\{P\}:(\S+)\s+(string|hash|list|set|zset|stream)\s+\S.*", line) for line in lines]
    return {row[1]: row[2] for row in rows if row}


def row_of(key: str, names: Iterable[str]) -> str | None:
    """The row of the table that a key belongs to."""
    for name in sorted(names, key=lambda name: "{" in name):
        pattern = re.sub(r"\\{(\w+)\\}", lambda found: PATTERNS[found[1]], re.escape(name))
        if re.fullmatch(pattern, key):
            return name
    return None


PATTERNS = {
    "check": r".+",
    "task": r"[^:]+",
    "unit": r"(?:perpetual:[^:]+(?::[^:]+)?|routines)",
    "poll": r"[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{4}ffffffff",
    "chunk": r"\d+",
    "entry": r".+",
    "key": r".+",
    "call": r"[0-9a-f]{32}",
    "worker": r"[^:]+#[0-9a-f]{8}",
    "day": r"\d+",
    "hour": r"\d+",
    "id": r"[0-9a-f]{8}-[0-9a-f]{4}-[48][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
}


def complaints(client: redis.Redis) -> list[str]:
    """List the faults of the keys that are there now, when nothing is in flight."""
    rows, found = table(), []
    for key in sorted(client.scan_iter(f"{PREFIX}*", count=1000)):
        name, kind = row_of(key.removeprefix(f"{PREFIX}:"), rows), client.type(key)
        if kind == "none":
            continue  # it has just been deleted
        if name is None:
            found.append(f"{key} is not in the table of keys")
        elif rows[name] != kind:
            found.append(f"{key} is a {kind}, the table says {rows[name]}")
        elif client.pttl(key) < 0 and name not in PERMANENT:
            found.append(f"{key} has no TTL, and nothing bounds it")
    return found


#: Owners that may be in a key that stays: names, or the most entries where those are names of the package's own.
OWNERS: dict[str, set[str] | int] = {
    "marks": 1, "units": set(UNITS), "due": set(UNITS), "cursors": set(UNITS), "tenants:{task}": {"acme", "shop"},
    # Rows 1, 3 and 4 fail; three items expire.
    "failed:{unit}": 3, "failures:{unit}": 3,
    "base": {"ordinary", "celery.backend_cleanup"}, "counters": COUNTERS, "alerts": 9, "stats": 40,
    "routines": {"once", "often", "cancelled"}, "routines:due": {"often"}, "routines:over": {"once", "cancelled"},
    "routines:updated": {"once", "often", "cancelled"}, "routines:keys": {f"key of {each}" for each in ("once", "often", "cancelled")},
}  # fmt: skip


def members(client: redis.Redis, key: str) -> set[str]:
    """The fields or members of a hash, set or sorted set."""
    read: dict[str, Any] = {
        "hash": client.hkeys, "set": client.smembers, "zset": lambda name: client.zrange(name, 0, -1)
    }  # fmt: skip
    return set(read[client.type(key)](key))


def strays(client: redis.Redis) -> dict[str, set[str]]:
    """List the entries of keys without a TTL that belong to nothing that is there."""
    found = {}
    for key in client.scan_iter(f"{PREFIX}*", count=1000):
        name = row_of(key.removeprefix(f"{PREFIX}:"), PERMANENT)
        if name in (None, "u:{unit}") or client.type(key) not in ("hash", "set", "zset") or client.pttl(key) >= 0:
            continue
        inside, owners = members(client, key), OWNERS[name]
        if (isinstance(owners, set) and not inside <= owners) or (isinstance(owners, int) and len(inside) > owners):
            found[key] = inside
    return found


def complaints_about_types(client: redis.Redis) -> list[str]:
    """Also in the middle of the work every key is in the table, with the right type."""
    return [text for text in complaints(client) if "no TTL" not in text]
