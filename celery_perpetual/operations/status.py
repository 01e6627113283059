"""Is all well? One line each about the store, the beat, units, work and workers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import PerpetualError, StoreRefused
from celery_perpetual.health import beat_checks, queues, store_checks, unit_checks, work_checks
from celery_perpetual.health.findings import BEAT, ERROR, STORE, UNITS, WORK, WORKERS, Finding, dated
from celery_perpetual.health.reading import Reading
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.operations.check import other_beat_scheduler
from celery_perpetual.operations.running import judged, units_of
from celery_perpetual.tasks.discovery import load
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.operations.units import Unit
    from celery_perpetual.tasks.discovery import Discovery

WELL, DEGRADED, DOWN = "well", "degraded", "down"
#: Exit codes of the command, by state.
STATES = (WELL, DEGRADED, DOWN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Area(JsonFields):
    """One of the five parts."""

    name: str
    """``store``, ``beat``, ``units``, ``work`` or ``workers``."""
    state: str
    """``well``, ``degraded`` or ``down``."""
    summary: str
    """How it is, in some words."""
    facts: Mapping[str, Any]
    """The same as numbers."""
    findings: tuple[Finding, ...]
    """The findings, the worst first."""

    @property
    def is_absent(self) -> bool:
        """Whether there is no beat or no worker, or nothing is known: then the finding says all."""
        return not self.facts.get("leader", True) or not self.facts.get("workers", True) or not self.facts


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(JsonFields):
    """The state of the whole, which is that of its worst part."""

    state: str
    """``well``; ``degraded``: something needs a look; ``down``: nothing is polled, or no state is kept."""
    at: datetime
    areas: tuple[Area, ...]

    @property
    def exit_code(self) -> int:
        """0 well, 1 degraded, 2 down."""
        return STATES.index(self.state)

    @property
    def is_blind(self) -> bool:
        """Whether the store does not answer, or with an error, so that nothing is known."""
        return any(finding.kind in ("store_unreachable", "store_error") for finding in self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Those of all parts."""
        return tuple(finding for area in self.areas for finding in area.findings)


def status(namespace: Namespace) -> Status:
    """Read the store, and judge.

    Raises:
        SettingsError, ContractError: a setting or a task is wrong, so that beat and workers refuse to start.
    """
    discovery, reading = load(namespace.app), Reading(namespace)
    try:
        return _status(reading, discovery)
    except PerpetualError as error:
        found = (*store_checks.types_if_known(reading), store_checks.failing(error))
        answers = "answers with an error" if isinstance(error, StoreRefused) else "does not answer"
        areas = [_area(STORE, f"{reading.store.shown} {answers}", {"url": reading.store.shown}, found)]
        areas += [
            Area(name=name, state=DOWN, summary="not known", facts={}, findings=())
            for name in (BEAT, UNITS, WORK, WORKERS)
        ]
        return Status(state=DOWN, at=datetime.now().astimezone(), areas=tuple(areas))


def _status(reading: Reading, discovery: Discovery) -> Status:
    units = units_of(reading)
    found = [
        *store_checks.refusing(reading), *store_checks.memory(reading), *store_checks.eviction(reading),
        *store_checks.persistence(reading), *store_checks.clock(reading),
        *(other_beat_scheduler(reading.namespace) if reading.lead.info is None and discovery.tasks else ()),
        *beat_checks.leader(reading),
        *unit_checks.tenants(reading, discovery.tasks.values()), *judged(reading, discovery, units),
        *work_checks.put_off(reading),
    ]  # fmt: skip
    by_area: dict[str, list[Finding]] = {}
    for finding in sorted(dated(found, reading.alerts_since), key=lambda each: (not each.stops, each.level != ERROR)):
        by_area.setdefault(finding.area, []).append(finding)
    areas = tuple(
        _area(name, summary, facts, by_area.get(name, ()))
        for name, (summary, facts) in {
            STORE: _store(reading), BEAT: _beat(reading), UNITS: _units(units), WORK: _work(reading, units),
            WORKERS: _workers(reading),
        }.items()
    )  # fmt: skip
    return Status(state=_worst(area.state for area in areas), at=to_datetime(reading.now), areas=areas)


def _area(name: str, summary: str, facts: Mapping[str, Any], findings: Sequence[Finding]) -> Area:
    state = DOWN if any(finding.stops for finding in findings) else DEGRADED if findings else WELL
    return Area(name=name, state=state, summary=summary, facts=facts, findings=tuple(findings))


def _worst(states: Iterable[str]) -> str:
    return max(states, key=STATES.index)


def _store(reading: Reading) -> tuple[str, dict[str, Any]]:
    server, shown = reading.server, reading.store.shown
    facts: dict[str, Any] = {"url": shown, "prefix": reading.store.keys.prefix}
    if server is None:
        return shown, facts
    limit = f" of {server.memory_limit / 2**20:.0f}" if server.memory_limit else ""
    facts |= {
        "software": server.software, "version": server.version, "used_memory": server.used_memory,
        "memory_limit": server.memory_limit, "clients": server.clients,
    }  # fmt: skip
    return f"{shown}, {server.software} {server.version}, {server.used_memory / 2**20:.0f}{limit} MB", facts


def _beat(reading: Reading) -> tuple[str, dict[str, Any]]:
    info, since = reading.lead.info, reading.lead.since
    if info is None:
        return "no beat leads", {"leader": None, "since": None}
    began = None if since is None else to_datetime(since)
    facts = {"leader": info.get("owner"), "since": None if began is None else format_time(began)}
    return f"{info.get('owner')} leads" + ("" if began is None else f" since {format_time(began)}"), facts


def _units(units: Sequence[Unit]) -> tuple[str, dict[str, Any]]:
    counts = Counter(unit.state for unit in units)
    parts = ", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.most_common())
    return f"{len(units)}: {parts}" if parts else "none", {"units": len(units), **counts}


def _work(reading: Reading, units: Sequence[Unit]) -> tuple[str, dict[str, Any]]:
    running = sum(worker.held for worker in reading.workers)
    facts: dict[str, Any] = {
        "in_flight": sum(unit.in_flight for unit in units), "running": running, "parked": reading.parked.tasks,
    }  # fmt: skip
    return ", ".join(f"{count} {what.replace('_', ' ')}" for what, count in facts.items()), facts


def _workers(reading: Reading) -> tuple[str, dict[str, Any]]:
    workers = reading.workers
    places = sum(int(worker.info.get("concurrency") or 0) for worker in workers)
    active = sum(int(worker.info.get("active") or 0) for worker in workers)
    busy = sum(queues.is_busy(worker) for worker in workers)
    facts = {"workers": len(workers), "places": places, "active": active, "busy": busy}
    if not workers:
        return "none", facts
    return f"{len(workers)}, {active} of {places} places taken", facts
