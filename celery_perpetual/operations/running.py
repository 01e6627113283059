"""Findings on standstill: no leader that knows the tasks, no worker, pauses, failing polls, parked tasks and keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from celery_perpetual.health import beat_checks, queues, unit_checks, work_checks, worker_checks
from celery_perpetual.health.findings import Finding, named
from celery_perpetual.operations.units import Unit, Units

if TYPE_CHECKING:
    from celery_perpetual.health.reading import Reading
    from celery_perpetual.tasks.discovery import Discovery


def what_stands_still(reading: Reading, discovery: Discovery) -> list[Finding]:
    """Findings about work that is not done although everything is set up.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    findings = list(work_checks.put_off(reading))
    if discovery.tasks:
        findings += judged(reading, discovery, units_of(reading))
    return findings


def units_of(reading: Reading) -> list[Unit]:
    """Every unit, with what the checks need of it."""
    namespace = reading.namespace
    return Units(namespace.app, namespace.settings, reading.store, namespace.pauses).to_judge()


def judged(reading: Reading, discovery: Discovery, units: Sequence[Unit]) -> list[Finding]:
    """Findings on these units, and on beats, workers and work."""
    waiting = sum(unit.in_flight for unit in units)
    found = [
        *beat_checks.other_app(reading), *beat_checks.other_code(reading, discovery.digest(), len(discovery.tasks)),
        *beat_checks.failing_pass(reading),
        *worker_checks.absent(reading, waiting), *worker_checks.late(reading), *worker_checks.skewed(reading),
        *unit_checks.pauses(reading, units), *unit_checks.other_pauses(reading, units),
        *unit_checks.silent(reading, units), *unit_checks.unevaluated(units),
        *unit_checks.failing(units), *unit_checks.slow(units), *unit_checks.orphaned(units),
        *unit_checks.parked_keys(units), *work_checks.parked(reading), *work_checks.replaced(reading),
        *(queues.queue_findings(reading, queues.waiting_items(reading).values()) if waiting else ()),
    ]  # fmt: skip
    by_kind: dict[str, list[Finding]] = {}
    for finding in found:
        by_kind.setdefault(finding.kind, []).append(finding)
    return [finding for kind in by_kind.values() for finding in named(kind)]
