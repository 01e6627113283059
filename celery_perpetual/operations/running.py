"""What stands still now: no leader that knows the tasks, no worker, pauses, failing polls, parked tasks and keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.operations.findings import Finding, error_of, warning_of
from celery_perpetual.operations.units import Unit, Units
from celery_perpetual.pauses import EVERYTHING
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.commands.leases import parked_tasks
from celery_perpetual.store.commands.workers import living_workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from celery_perpetual.namespace import Namespace
    from celery_perpetual.tasks.discovery import Discovery

#: Units that are named one by one.
MOST_NAMED = 5


def what_stands_still(namespace: Namespace, discovery: Discovery) -> list[Finding]:
    """Findings about work that is not done although everything is set up.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if not discovery.tasks:
        return []
    store = namespace.store
    units = Units(namespace.app, namespace.settings, store, namespace.pauses).all()
    return [
        *_about_leader(namespace, discovery), *_about_workers(namespace, units), *_about_pauses(namespace, units),
        *_about_polls(units), *_about_parked(namespace, units),
    ]  # fmt: skip


def _about_leader(namespace: Namespace, discovery: Discovery) -> list[Finding]:
    leading = leader_info(namespace.store)
    if leading is None or leading.get("digest") in (None, discovery.digest()):
        return []
    owner, count = leading.get("owner"), leading.get("units")
    evidence = f"the leading beat {owner} knows other perpetual tasks ({count}) than this code ({len(discovery.tasks)})"
    return [error_of(evidence, "it runs other code, and may not poll new tasks", "restart that beat")]


def _about_workers(namespace: Namespace, units: Sequence[Unit]) -> list[Finding]:
    if living_workers(namespace.store):
        return []
    waiting = sum(unit.in_flight for unit in units)
    evidence = f"no worker has reported, and {waiting} items are in flight" if waiting else "no worker has reported"
    return [warning_of(evidence, "what is enqueued is not executed", "celery -A proj worker")]


def _about_pauses(namespace: Namespace, units: Sequence[Unit]) -> list[Finding]:
    pauses = namespace.pauses.now()
    if EVERYTHING in pauses:
        evidence = f"everything is paused: {pauses[EVERYTHING].text}"
        return [warning_of(evidence, "nothing is polled", "celery -A proj perpetual resume --all")]
    paused = [unit for unit in units if unit.pause is not None]
    return _named(
        paused, "paused", lambda unit: unit.pause.text if unit.pause else "", "it is not polled",
        "celery -A proj perpetual resume --task {task}",
    )  # fmt: skip


def _about_polls(units: Sequence[Unit]) -> list[Finding]:
    failing = [unit for unit in units if unit.attempt and unit.state in ("active", "backing_off")]
    return _named(
        failing, "failing", lambda unit: f"{unit.attempt} polls in a row failed, the last: {_trouble(unit)}",
        "it is polled ever less often", "celery -A proj perpetual why {task}",
    )  # fmt: skip


def _trouble(unit: Unit) -> str:
    last = unit.last_poll
    return "" if last is None else (last.error or last.reason or last.status).partition("\n")[0]


def _about_parked(namespace: Namespace, units: Sequence[Unit]) -> list[Finding]:
    findings = []
    if parked := parked_tasks(namespace.store):
        last = max(parked, key=lambda each: float(each["parked_at"]))
        evidence = f"{len(parked)} tasks are parked, the last one because {last['reason']}"
        advice = "celery -A proj perpetual parked; then recover, fail or cancel them"
        findings.append(warning_of(evidence, "they keep their keys and their room until an operator acts", advice))
    keys = [unit for unit in units if unit.parked_keys]
    return findings + _named(
        keys, "leaving keys out", lambda unit: f"{unit.parked_keys} item keys are parked",
        "polls leave them out until an operator allows them",
        "celery -A proj perpetual items {task} --state parked_key",
    )  # fmt: skip


def _named(units: Sequence[Unit], state: str, says: Callable[[Unit], str], meaning: str, advice: str) -> list[Finding]:
    """A finding for each of the first units, and one for the rest."""
    found = [
        warning_of(f"{unit.name} is {state}: {says(unit)}", meaning, advice.format(task=unit.task))
        for unit in units[:MOST_NAMED]
    ]
    if len(units) > MOST_NAMED:
        found.append(
            warning_of(f"{len(units) - MOST_NAMED} more units are {state}", meaning, "celery -A proj perpetual units")
        )
    return found
