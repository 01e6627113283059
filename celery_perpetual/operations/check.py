"""Is everything set up, and does it run? Each finding says what was seen, what it means and what helps."""

from __future__ import annotations

from collections.abc import Iterator

from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.beat.scheduler_setting import other_scheduler
from celery_perpetual.errors import PerpetualError
from celery_perpetual.health import beat_checks, index_checks, leaks, seam_checks, store_checks
from celery_perpetual.health.findings import BEAT, ERROR, SETUP, WARNING, Finding, dated
from celery_perpetual.health.reading import Reading
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.running import what_stands_still
from celery_perpetual.operations.tenants import tenants_trouble
from celery_perpetual.seams.table import unknown_seams
from celery_perpetual.tasks.discovery import Discovery, load, unknown_names
from celery_perpetual.tasks.unregistered import unregistered


def check(namespace: Namespace) -> list[Finding]:
    """Check settings, tasks, scheduler, store, leader, workers and work. Changes nothing.

    It raises no :class:`PerpetualError`.
    """
    return _examine(namespace, thorough=False)


def doctor(namespace: Namespace) -> list[Finding]:
    """Check what :func:`check` does, and what takes longer: how fast the store is, how old, how full, and what leaks.

    It raises no :class:`PerpetualError`.
    """
    return _examine(namespace, thorough=True)


def _examine(namespace: Namespace, *, thorough: bool) -> list[Finding]:
    findings = [*seam_checks.unknown(unknown_seams()), *_wiring(namespace)]
    discovery: Discovery | None = None
    try:
        discovery = load(namespace.app)
        findings += _tasks(namespace, discovery)
    except PerpetualError as error:
        findings.append(_setup("wrong_task", ERROR, str(error), "beat and workers refuse to start", "correct the task"))
    try:
        reading = Reading(namespace)
        if discovery is not None:
            findings += [*_misnamed(namespace, discovery), *_tenants(namespace, discovery)]
    except PerpetualError as error:
        advice = "correct the setting"
        return [*findings, _setup("wrong_setting", ERROR, str(error), "beat and workers refuse to start", advice)]
    try:
        findings += _store(reading, thorough=thorough)
        if discovery is not None:
            findings += what_stands_still(reading, discovery)
        findings = dated(findings, reading.alerts_since)
    except PerpetualError as error:
        findings.append(store_checks.failing(error))
    return findings


def _setup(kind: str, level: str, evidence: str, meaning: str, advice: str) -> Finding:
    return Finding(kind=kind, area=SETUP, level=level, evidence=evidence, meaning=meaning, help=advice)


def _wiring(namespace: Namespace) -> Iterator[Finding]:
    if not namespace.is_wired:
        evidence, advice = "this app is not wired: Perpetual(app) is missing", "add Perpetual(app), see the README"
        yield _setup("not_wired", ERROR, evidence, "no worker of it announces ends or holds leases", advice)


def _tasks(namespace: Namespace, discovery: Discovery) -> Iterator[Finding]:
    meaning = "a task with only one of poll_every and next_batch is an ordinary task"
    for text in discovery.warnings:
        yield _setup("half_a_task", WARNING, text, meaning, "add the other attribute, or remove this one")
    for name in unregistered(namespace.app):
        evidence = f"the class {name} has poll_every and next_batch, and is no registered task"
        advice = f"app.register_task({name.rpartition('.')[2]}()), or remove run where it is a base of other tasks"
        yield _setup("unregistered_task", WARNING, evidence, "it is not polled", advice)
    if not discovery.tasks:
        evidence = "no task has poll_every and next_batch"
        yield _setup("no_task", WARNING, evidence, "there is nothing to poll", "see the README")
    else:
        yield from other_beat_scheduler(namespace)


def other_beat_scheduler(namespace: Namespace) -> Iterator[Finding]:
    """The setting ``beat_scheduler`` names a scheduler that does not poll."""
    if (other := other_scheduler(namespace.app, PerpetualScheduler)) is not None:
        yield Finding(
            kind="other_scheduler", area=BEAT, level=WARNING, evidence=other.problem,
            meaning="perpetual tasks are not polled", help=other.cure, stops=True,
        )  # fmt: skip


def _misnamed(namespace: Namespace, discovery: Discovery) -> Iterator[Finding]:
    """Names in ``perpetual_disabled`` that no task has."""
    for text in unknown_names(discovery, namespace.settings.disabled):
        yield _setup("wrong_name", WARNING, text, "a task that it should name is polled", "correct perpetual_disabled")


def _tenants(namespace: Namespace, discovery: Discovery) -> Iterator[Finding]:
    """Call each ``tenants`` function."""
    for contract in discovery.tasks.values():
        if trouble := tenants_trouble(namespace.app, contract):
            meaning, advice = "tenants that come or go are not noticed", "correct the function"
            yield _setup("tenants_failed", ERROR, f"task {contract.name}: {trouble}", meaning, advice)


def _store(reading: Reading, *, thorough: bool) -> Iterator[Finding]:
    for each in (
        store_checks.refusing, store_checks.types, store_checks.memory, store_checks.eviction,
        store_checks.persistence, store_checks.clock,
    ):  # fmt: skip
        yield from each(reading)
    if thorough:
        for each in (
            store_checks.version,
            store_checks.clients,
            store_checks.latency,
            leaks.keys,
            index_checks.unlisted,
        ):
            yield from each(reading)
    yield from beat_checks.leader(reading)
