"""Is everything set up, and does it run? Each finding says what was seen, what it means and what helps."""

from __future__ import annotations

import time

from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.beat.scheduler_setting import other_scheduler
from celery_perpetual.errors import PerpetualError
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.findings import Finding, error_of, warning_of
from celery_perpetual.operations.running import what_stands_still
from celery_perpetual.operations.tenants import tenants_trouble
from celery_perpetual.seams.table import unknown_seams
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.connection import Store
from celery_perpetual.store.health import store_warnings
from celery_perpetual.store.work_list import entries_put_off
from celery_perpetual.tasks.discovery import load, unknown_names

#: Seconds by which two clocks may differ.
MOST_SKEW = 5.0


def check(namespace: Namespace) -> list[Finding]:
    """Check settings, tasks, scheduler, store, leader, workers and work. Changes nothing.

    It raises no :class:`PerpetualError`.
    """
    findings = [
        warning_of(f"seam {seam.name!r} is not as known: {evidence}", seam.without, "use versions that were seen")
        for seam, evidence in unknown_seams()
    ]
    app = namespace.app
    if not namespace.is_wired:
        evidence, advice = "this app is not wired: Perpetual(app) is missing", "add Perpetual(app), see the README"
        findings.append(error_of(evidence, "no worker of it announces ends or holds leases", advice))
    try:
        discovery = load(app)
    except PerpetualError as error:
        findings.append(error_of(str(error), "beat and workers refuse to start", "correct the task"))
        discovery = None
    if discovery is not None:
        meaning = "a task with only one of poll_every and next_batch is an ordinary task"
        advice = "add the other attribute, or remove this one"
        findings += [warning_of(text, meaning, advice) for text in discovery.warnings]
        if not discovery.tasks:
            findings.append(
                warning_of("no task has poll_every and next_batch", "there is nothing to poll", "see the README")
            )
        elif (other := other_scheduler(app, PerpetualScheduler)) is not None:
            advice = f"beat_scheduler = {other.wanted!r}"
            findings.append(warning_of(other.problem, "perpetual tasks are not polled", advice))
    try:
        store = namespace.store
        if discovery is not None:
            advice = "correct perpetual_disabled"
            findings += [
                warning_of(text, "a task that it should name is polled", advice)
                for text in unknown_names(discovery, namespace.settings.disabled)
            ]
            findings += _check_tenants(namespace)
    except PerpetualError as error:
        return [*findings, error_of(str(error), "beat and workers refuse to start", "correct the setting")]
    try:
        return findings + _check_store(store) + ([] if discovery is None else what_stands_still(namespace, discovery))
    except PerpetualError as error:
        meaning, advice = "nothing is polled and no end is recorded", "start the server or correct the URL"
        return [*findings, error_of(str(error), meaning, advice)]


def _check_tenants(namespace: Namespace) -> list[Finding]:
    """Call each ``tenants`` function."""
    meaning, advice = "tenants that come or go are not noticed", "correct the function"
    contracts = load(namespace.app).tasks.values()
    troubles = {each.name: tenants_trouble(namespace.app, each) for each in contracts}
    return [error_of(f"task {name}: {trouble}", meaning, advice) for name, trouble in troubles.items() if trouble]


def _check_store(store: Store) -> list[Finding]:
    """Check what the store says.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    skew = store.now() / 1000 - time.time()
    findings = [warning_of(text, "work in flight may be lost", "change the server's configuration")
                for text in store_warnings(store)]  # fmt: skip
    if abs(skew) > MOST_SKEW:
        evidence = f"the store's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's"
        findings.append(warning_of(evidence, "slots and leases go by the store's clock", "synchronise the clocks"))
    findings += [warning_of(f"{count} {what}", "they are tried again, ever later", "see the log of the leading beat")
                 for what, count in _put_off(store).items() if count]  # fmt: skip
    leading = leader_info(store)
    if leading is None:
        findings.append(warning_of("no beat holds the lead", "nothing is polled", "celery -A proj beat"))
    elif trouble := leading.get("trouble"):
        meaning = "it polls, but sends no entry of beat_schedule"
        advice = "correct what is wrong there; another beat would take the lead"
        findings.append(error_of(f"the leading beat {leading.get('owner')} is in trouble: {trouble}", meaning, advice))
    return findings


def _put_off(store: Store) -> dict[str, int]:
    keys = store.keys
    return {
        "batches could not be published": entries_put_off(store, keys.outbox),
        "messages on_batch_done could not be sent": entries_put_off(store, keys.batches),
    }
