"""The sums over what the cycles of a namespace have done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_perpetual.json_fields import JsonFields
from celery_perpetual.store.commands.stats import stored_stats
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats(JsonFields):
    """Sums over all passes of all processes. Times are of the store's clock; None: never."""

    since: datetime | None
    """When counting began."""
    cycles: int
    last_cycle_at: datetime | None
    rebuilds: int
    last_rebuild_at: datetime | None
    swept: int
    restored: int
    missed: int
    resent: int
    relayed: int
    unstaged: int
    routines_started: int
    batches: int
    orphans: int
    forgotten: int
    noticed: int
    woken: int
    spawned: int
    starved: int
    parked: int
    """As in a ``CycleResult``; of lists, how many."""
    errors: int
    """Steps that failed."""
    last_error: Mapping[str, Any] | None
    """``step``, ``error`` and ``at`` of the last one."""
    counters: Mapping[str, int]
    """Counters that scripts keep: recoveries, leases lost, late ends, dropped deliveries."""


def read_stats(store: Store) -> Stats:
    """Read them.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    found, counters = stored_stats(store)
    times = {name: _time(found.get(name)) for name in ("since", "last_cycle_at", "last_rebuild_at")}
    own = [each.name for each in fields(Stats) if each.type == "int"]
    return Stats(
        **times,  # type: ignore[arg-type]  # of the fields that are times
        **{name: int(found.get(name, 0)) for name in own},  # type: ignore[arg-type]  # of the fields that are numbers
        last_error=_error(found.get("last_error")),
        counters=counters,
    )


def _time(text: str | None) -> datetime | None:
    return None if text is None else to_datetime(int(text))


def _error(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    found: dict[str, Any] = json.loads(text)
    return found | {"at": format_time(to_datetime(int(found["at"])))}
