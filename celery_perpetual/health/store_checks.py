"""The server that keeps the state."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.health.findings import ERROR, STORE, WARNING, Finding
from celery_perpetual.store.commands.types import wrong_types
from celery_perpetual.store.health import answer_seconds, why_no_write

if TYPE_CHECKING:
    from collections.abc import Iterator

    from celery_perpetual.errors import PerpetualError
    from celery_perpetual.health.reading import Reading

#: The oldest server that has every command which is used.
OLDEST = (6, 2)
#: Shares of its memory limit from which the store is said to be nearly full, and full.
NEARLY_FULL, FULL = 0.8, 0.95
#: Seconds by which two clocks may differ.
MOST_SKEW = 5.0
#: Keys that are named.
NAMED = 3
#: Seconds that an answer may take.
SLOW = 0.05


def unreachable(error: PerpetualError) -> Finding:
    """The store does not answer."""
    return Finding(
        kind="store_unreachable", area=STORE, level=ERROR, stops=True, evidence=str(error),
        meaning="nothing is polled and no end is recorded; all of it goes on when the store answers",
        help="start the server, or correct its URL (perpetual_store_url, else broker_url); redis-cli ping asks it",
    )  # fmt: skip


def failing(error: PerpetualError) -> Finding:
    """The store does not answer, or with an error that no outage explains."""
    if not isinstance(error, StoreRefused):
        return unreachable(error)
    return Finding(
        kind="store_error", area=STORE, level=ERROR, stops=True, evidence=str(error),
        meaning="what makes this call stands still; the checks behind it were not made",
        help="correct the key that is of a wrong type, if one is named here or above; else report this",
    )  # fmt: skip


def types(reading: Reading) -> Iterator[Finding]:
    """Keys of the namespace hold something else than they should: another program writes to them."""
    found = wrong_types(reading.store)
    if not found:
        return
    some = "; ".join(f"key {each.key} holds a {each.seen}, not a {each.wanted}" for each in found[:NAMED])
    rest = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
    yield Finding(
        kind="wrong_type", area=STORE, level=ERROR, stops=True, evidence=f"{some}{rest}",
        meaning="each call that needs such a key fails; what it holds is not of this package",
        help=f"find who writes there, or set another perpetual_key_prefix; redis-cli RENAME {found[0].key} "
        f"aside:{found[0].key}, and all goes on without what the key held before", about={"keys": len(found)},
    )  # fmt: skip


def types_if_known(reading: Reading) -> list[Finding]:
    """The same; none where the store does not answer."""
    try:
        return list(types(reading))
    except StoreUnavailable:
        return []


FORBIDDEN_HELP = "give its user what it lacks: redis-cli ACL SETUSER … '~*' '&*' +@all -@admin -@dangerous +info"

#: Words in the answer of a server that takes no data, and what helps there.
REFUSALS = (
    ("maxmemory", "redis-cli CONFIG SET maxmemory …, or remove what others keep there: redis-cli --bigkeys"),
    ("MISCONF", "make room on its disk, then redis-cli BGSAVE; redis-cli INFO persistence"),
    (
        "read only replica",
        "let perpetual_store_url name the primary: redis-cli INFO replication; or redis-cli REPLICAOF NO ONE",
    ),
    (
        "NOREPLICAS",
        "bring its replicas back: redis-cli INFO replication; or redis-cli CONFIG SET min-replicas-to-write …",
    ),
    ("permissions", FORBIDDEN_HELP),
)


def refusing(reading: Reading) -> Iterator[Finding]:
    """It answers, and takes no data: it is full, cannot save, is a replica, or misses its own."""
    if why := why_no_write(reading.store):
        any_help = "redis-cli INFO memory persistence replication; give it room, or let it save"
        yield Finding(
            kind="store_refuses", area=STORE, level=ERROR, stops=True,
            evidence=f"the store takes no data: {why.partition('. ')[0].rstrip('.')}",
            meaning="nothing is polled and no end is recorded until it does",
            help=next((advice for word, advice in REFUSALS if word in why), any_help),
        )  # fmt: skip


def memory(reading: Reading) -> Iterator[Finding]:
    """It is near its limit."""
    server = reading.server
    if server is None or server.memory_share < NEARLY_FULL:
        return
    used, limit = (f"{size / 2**20:.0f} MB" for size in (server.used_memory, server.memory_limit))
    yield Finding(
        kind="store_memory", area=STORE, level=ERROR if server.memory_share >= FULL else WARNING,
        evidence=f"the store uses {used} of {limit} ({server.memory_share:.0%})",
        meaning="when it is full it removes keys" if server.may_evict else "when it is full it takes no data",
        help="redis-cli CONFIG SET maxmemory …; celery -A proj perpetual units shows what is in flight",
    )  # fmt: skip


def eviction(reading: Reading) -> Iterator[Finding]:
    """It may remove keys."""
    server = reading.server
    if server is None or not server.may_evict:
        return
    evicted = f" and has removed {server.evicted} keys" if server.evicted else ""
    yield Finding(
        kind="eviction_policy", area=STORE, level=ERROR if server.evicted else WARNING,
        evidence=f"the store may evict keys (maxmemory-policy {server.policy}){evicted}",
        meaning="work in flight may be lost", help="redis-cli CONFIG SET maxmemory-policy noeviction",
    )  # fmt: skip


def persistence(reading: Reading) -> Iterator[Finding]:
    """It loses its data with a restart, or could not write it."""
    server = reading.server
    if server is None:
        return
    if not server.is_persistent:
        yield Finding(
            kind="persistence", area=STORE, level=WARNING,
            evidence="the store keeps nothing on disk (no appendonly, no save)",
            meaning="a restart of it loses work in flight and cursors", help="redis-cli CONFIG SET appendonly yes",
        )  # fmt: skip
    elif server.save_failed:
        yield Finding(
            kind="save_failed", area=STORE, level=WARNING, evidence="the store could not write its data to disk",
            meaning="a restart of it loses what has happened since, and it may take no data at all",
            help="make room on its disk; redis-cli INFO persistence",
        )  # fmt: skip


def version(reading: Reading) -> Iterator[Finding]:
    """It is too old."""
    server = reading.server
    if server is None:
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", server.version)[:2])
    if numbers < OLDEST:
        yield Finding(
            kind="server_version", area=STORE, level=ERROR,
            evidence=f"the store is {server.software} {server.version}",
            meaning="it lacks commands that this package uses", help="use Redis 6.2 or newer, or Valkey",
        )  # fmt: skip


def clients(reading: Reading) -> Iterator[Finding]:
    """It has nearly as many connections as it takes."""
    server = reading.server
    if server is None or not server.client_limit or server.clients < NEARLY_FULL * server.client_limit:
        return
    yield Finding(
        kind="store_clients", area=STORE, level=WARNING,
        evidence=f"the store has {server.clients} of at most {server.client_limit} connections",
        meaning="further processes cannot connect", help="redis-cli CONFIG SET maxclients …; redis-cli CLIENT LIST",
    )  # fmt: skip


def clock(reading: Reading) -> Iterator[Finding]:
    """Its clock is not that of this machine."""
    skew = reading.skew
    if abs(skew) > MOST_SKEW:
        yield Finding(
            kind="clock_skew", area=STORE, level=WARNING,
            evidence=f"the store's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
            meaning="slots and leases go by the store's clock, logs and cron by the machine's",
            help="synchronise the clocks: timedatectl status, on both machines",
        )  # fmt: skip


def latency(reading: Reading) -> Iterator[Finding]:
    """It is slow, or far away."""
    seconds = answer_seconds(reading.store)
    if seconds > SLOW:
        yield Finding(
            kind="store_latency", area=STORE, level=WARNING, evidence=f"the store answers in {seconds * 1000:.0f} ms",
            meaning="a beat polls fewer units in a second, and every task starts and ends later",
            help="redis-cli --latency; redis-cli SLOWLOG GET; put the store near to beats and workers",
        )  # fmt: skip
