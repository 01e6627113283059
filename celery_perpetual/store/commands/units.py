"""Units as the store remembers them, and their stored outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class UnitFacts(NamedTuple):
    """What the store has of one unit; a unit that it does not know has nothing."""

    cursor: bytes | None
    """JSON."""
    in_flight: int
    attempt: int
    """Failed polls in a row."""
    backs_off_until: int
    """Milliseconds of the store's time, 0 = it does not."""
    polled_at: int | None
    due_at: float | None
    newest_outcome: bytes | None
    """As ``polling/outcome.py`` reads it."""


def unit_names(store: Store) -> set[str]:
    """Every unit that the store remembers."""
    with store.errors("units"):
        return {name.decode() for name in store.redis.zrange(store.keys.units, 0, -1)}


def is_unit(store: Store, name: str) -> bool:
    """Whether the store remembers a unit."""
    with store.errors("units"):
        return store.redis.zscore(store.keys.units, name) is not None


def units_last_known_before(store: Store, before: int, skip: int, limit: int) -> list[str]:
    """Units that no leader has known since then (ms), those that are unknown for longest first."""
    with store.errors("orphans"):
        found = store.redis.zrangebyscore(store.keys.units, "-inf", before, skip, limit)
    return [name.decode() for name in found]


def unit_facts(store: Store, names: Sequence[str]) -> list[UnitFacts]:
    """The facts of units, in their order, in one round trip."""
    keys = store.keys
    with store.errors("units"):
        pipe = store.redis.pipeline(transaction=False)
        for name in names:
            pipe.hmget(keys.unit(name), "cursor", "inflight", "attempt", "backoff", "polled")
            pipe.zscore(keys.due, name)
            pipe.lindex(keys.polls(name), 0)
        rows = iter(pipe.execute())
    return [
        UnitFacts(
            cursor, int(in_flight or 0), int(attempt or 0), int(backoff or 0),
            int(polled) if polled else None, due, newest,
        )
        for (cursor, in_flight, attempt, backoff, polled), due, newest in zip(rows, rows, rows, strict=True)
    ]  # fmt: skip


def stored_outcomes(store: Store, unit: str, limit: int) -> list[bytes]:
    """The newest outcomes of a unit, as they are stored."""
    with store.errors("outcomes"):
        return list(store.redis.lrange(store.keys.polls(unit), 0, limit - 1))
