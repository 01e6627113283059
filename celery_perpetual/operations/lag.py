"""How far units are behind, as numbers: of polls, of their source, of execution.

All of it follows from what is stored anyway: outcomes, leases, and the newest entries of the stream of events.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from celery_perpetual.events import COMPLETION
from celery_perpetual.health.unit_checks import budget_used
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.store.commands.batches import commits
from celery_perpetual.store.commands.events import newest_events
from celery_perpetual.store.commands.leases import first_leases
from celery_perpetual.store.commands.units import SHORT_MS, rates
from celery_perpetual.times import parse_time, to_ms

if TYPE_CHECKING:
    from celery_perpetual.health.reading import SeenUnit
    from celery_perpetual.store.connection import Store

#: Entries of the stream, and leases, that are read.
MOST_EVENTS, MOST_LEASES = 500, 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Lag(JsonFields):
    """How far one unit is behind. Durations are seconds, None where nothing is known."""

    poll_lag: float | None
    """How long after its slot the last poll began; more where the next one is overdue by more."""
    source_lag: float | None
    """How old the newest watermark is, as the batches say it."""
    start_delay: float | None
    """From the commit of a batch to the start of its items, the median of those that began lately."""
    backlog: int
    """Items in flight that no worker executes."""
    budget_used: float | None
    """The share of its interval that the last poll took."""
    rate_1m: float
    """Items enqueued per second, over the last minute."""
    rate_15m: float
    """The same over the last fifteen minutes, or as far as its outcomes go back."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            name: round(value, 4) if isinstance(value, float) else value for name, value in json_fields(self).items()
        }


def lags(store: Store, units: Sequence[SeenUnit], histories: Mapping[str, int]) -> list[Lag]:
    """The lag of each unit, in their order.

    Args:
        histories: how many outcomes of each unit are kept, by task.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if not units:
        return []
    now, (running, delays) = store.now(), _executions(store)
    found = []
    kept = [(unit.name, histories.get(unit.task, 0)) for unit in units]
    for unit, rate in zip(units, rates(store, kept), strict=True):
        mark = None if rate.watermark is None else (now - to_ms(parse_time(rate.watermark))) / 1000
        waited = delays.get(unit.name)
        found.append(
            Lag(
                poll_lag=_poll_lag(unit, now), source_lag=mark, start_delay=median(waited) if waited else None,
                backlog=max(0, unit.in_flight - running.get(unit.name, 0)),
                budget_used=budget_used(unit.last_poll, unit.poll_every), rate_1m=rate.short / (SHORT_MS / 1000),
                rate_15m=rate.long / (rate.covered_ms / 1000),
            )
        )  # fmt: skip
    return found


def _poll_lag(unit: SeenUnit, now: int) -> float | None:
    overdue = 0.0 if unit.next_poll_at is None else (now - to_ms(unit.next_poll_at)) / 1000
    if unit.last_poll is None:
        return overdue if overdue > 0 else None
    late = (unit.last_poll.started_at - unit.last_poll.slot).total_seconds()
    return max(0.0, late, overdue)


def _executions(store: Store) -> tuple[Mapping[str, int], Mapping[str, list[float]]]:
    """By unit: how many items are executed now, and how long items have waited for their start, in seconds."""
    begun: list[tuple[str, int]] = []
    for task_id, lease in first_leases(store, MOST_LEASES):
        if (where := item_address(task_id)) is not None:
            begun.append((where.poll_id, lease.started_at))
    now_running = [poll_id for poll_id, _ in begun]
    for data in newest_events(store, COMPLETION.name, MOST_EVENTS):
        end = json.loads(data)
        if end.get("poll_id") and end.get("runtime") is not None and end.get("attempt") == 1:
            at = to_ms(parse_time(end["finished_at"])) - 1000 * end["runtime"]
            begun.append((end["poll_id"], round(at)))
    known = commits(store, list({poll_id for poll_id, _ in begun}))
    delays: dict[str, list[float]] = {}
    for poll_id, at in begun:
        if poll_id in known:
            delays.setdefault(known[poll_id].unit, []).append(max(0.0, (at - known[poll_id].at) / 1000))
    return Counter(known[poll_id].unit for poll_id in now_running if poll_id in known), delays
