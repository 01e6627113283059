"""Alerts: what needs a person, as events, once when it begins and once when it ends.

The cycle judges by the same checks as ``status``. Which alerts are on is in the store, so that neither a new leader nor
a restart repeats one. A pass reads some of the units, one part after the other, and every time those that are overdue
or have an alert; the server is asked once in a minute. Workers say that no beat leads, as no cycle runs then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.broker.task_queues import TaskQueues
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.health import beat_checks, seam_checks, store_checks, unit_checks, work_checks, worker_checks
from celery_perpetual.health.findings import ERROR, Finding
from celery_perpetual.health.reading import Reading, SeenUnit
from celery_perpetual.pauses import scopes_of
from celery_perpetual.polling.outcome import from_entry
from celery_perpetual.store.commands.alerts import BEGIN, END, AlertChange, change_alerts, stored_alerts
from celery_perpetual.store.commands.units import overdue_units, unit_facts, units_page
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.store.connection import Store

#: Units of one pass, and of those that are overdue.
UNITS_AT_ONCE, OVERDUE_AT_ONCE = 200, 100
#: Seconds between two questions to the server about itself.
SERVER_EVERY = 60.0
#: A beat has ended without a successor when none was in contact for so many ``perpetual_leader_ttl``.
TTLS_WITHOUT = 2

UNIT_KINDS = frozenset({"unit_silent", "unit_failing", "poll_budget"})
SERVER_KINDS = frozenset({"store_memory", "eviction_policy", "seam_unknown"})


class Alerts:
    """Judges pass after pass. For one thread; it remembers where it stands among the units."""

    def __init__(self, namespace: Namespace) -> None:
        self._namespace = namespace
        self._store = namespace.store
        self._page = 0
        self._server_at = 0.0
        self._queues = TaskQueues(namespace.app)

    def once(self) -> int:
        """One pass; returns how many alerts have begun or ended.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        reading, on = Reading(self._namespace), stored_alerts(self._store)
        found = list(worker_checks.late(reading))
        kinds = {"worker_late", "worker_lost", "no_leader"}
        found += _no_leader(reading)
        with suppress(StoreRefused):  # over a key of a wrong type; the step that keeps this list reports it
            found += work_checks.replaced(reading)
            kinds.add("items_replaced")
        if time.monotonic() - self._server_at >= SERVER_EVERY or not self._server_at:
            self._server_at = time.monotonic()
            found += [*store_checks.memory(reading), *store_checks.eviction(reading), *self._seams]
            kinds |= SERVER_KINDS
        units = self._some_units(reading, on)
        found += _about_units(reading, units)
        judged = {unit.name for unit in units}
        over = [
            alert
            for alert, data in on.items()
            if (kind := _kind(alert)) in kinds or (kind in UNIT_KINDS and json.loads(data).get("unit") in judged)
        ]
        return say(self._store, on, found, over, reading.now)

    @cached_property
    def _seams(self) -> list[Finding]:
        """They do not change as long as the process lives."""
        return list(seam_checks.unknown(self._namespace.unknown_seams()))

    def _some_units(self, reading: Reading, on: dict[str, bytes]) -> list[SeenUnit]:
        self._page, names = units_page(self._store, self._page, UNITS_AT_ONCE)
        overdue = overdue_units(self._store, reading.now - unit_checks.SILENT_MS, OVERDUE_AT_ONCE)
        alerting = [unit for data in on.values() if (unit := json.loads(data).get("unit"))]
        wanted = list(dict.fromkeys([*names, *(name for name, _ in overdue), *alerting]))
        return units_now(reading, wanted, self._queues_of(reading, wanted))

    def _queues_of(self, reading: Reading, units: list[str]) -> dict[str, str]:
        """The queues of their tasks, as far as the app has these; none where no queue is paused."""
        if not any(scope.kind == "queue" for scope in reading.pauses):
            return {}
        names, tasks = {parse_unit_name(each)[0] for each in units}, self._namespace.app.tasks
        return self._queues.of({name: tasks[name] for name in sorted(names) if name in tasks})


def units_now(reading: Reading, names: list[str], queues: Mapping[str, str]) -> list[SeenUnit]:
    """The store's facts on these units.

    Args:
        reading: the store as it is now.
        names: of the units.
        queues: name of a task -> its queue, where some queue is paused.
    """
    found = []
    known = unit_facts(reading.store, names, unit_checks.WHOLE_INTERVAL, brief=True) if names else []
    for name, facts in zip(names, known, strict=True):
        task, tenant = parse_unit_name(name)
        is_paused = any(scope in reading.pauses for scope in scopes_of(name, queues.get(task, "")))
        due = facts.due_at
        found.append(
            SeenUnit(
                name=name, task=task, tenant=tenant, attempt=facts.attempt, in_flight=facts.in_flight,
                poll_every=facts.every,
                # Out of the clock it is disabled, or not known any more.
                state="paused" if is_paused else "disabled" if due is None else "active",
                next_poll_at=None if due is None else to_datetime(due),
                last_poll=None if facts.newest_outcome is None else from_entry(facts.newest_outcome),
            )
        )  # fmt: skip
    return found


def _about_units(reading: Reading, units: list[SeenUnit]) -> Iterator[Finding]:
    yield from unit_checks.silent(reading, units)
    yield from (each for each in unit_checks.failing(units) if each.level == ERROR)
    yield from (each for each in unit_checks.slow(units) if each.level == ERROR)


def _no_leader(reading: Reading) -> list[Finding]:
    """That no beat leads, where one was there within a day and not within the last moments.

    A mark that is ahead of the clock was left before the clock was set back.
    """
    seen = reading.lead.last_contact
    longest = TTLS_WITHOUT * 1000 * reading.settings.leader_ttl
    if reading.lead.info is not None or seen is None or abs(reading.now - seen) < longest:
        return []
    return list(beat_checks.leader(reading))


def watch_leader(namespace: Namespace, store: Store) -> None:
    """Begin the alert that no beat leads, where that is so; for workers, with each heartbeat. It raises nothing.

    Args:
        namespace: of the app.
        store: over the connections of the heartbeat, which may not wait.
    """
    try:
        reading = Reading(namespace, store)
        if found := _no_leader(reading):
            say(reading.store, stored_alerts(reading.store), found, (), reading.now)
    except StoreUnavailable:
        return  # the heartbeat reports it


def say(store: Store, on: Iterable[str], found: Iterable[Finding], over: Iterable[str], now: int) -> int:
    """Begin the alerts that are not on yet, and end those that are over; returns how many these are."""
    wanted = {finding.id: finding for finding in found}
    begun = {alert: finding for alert, finding in wanted.items() if alert not in on}
    ended = [alert for alert in over if alert not in wanted]
    changes = [AlertChange(BEGIN, alert, finding.kind, _data(finding, now)) for alert, finding in begun.items()]
    stored = stored_alerts(store) if ended else {}
    changes += [AlertChange(END, alert, _kind(alert), _end(stored.get(alert, b"{}"), now)) for alert in ended]
    change_alerts(store, changes)
    for finding in begun.values():
        emit(events.ALERT_BEGUN, evidence=finding.evidence, help=finding.help, alert=finding.id)
    for alert in ended:
        emit(events.ALERT_ENDED, alert=alert)
    return len(changes)


def _kind(alert: str) -> str:
    return alert.partition(" ")[0]


def _data(finding: Finding, now: int) -> str:
    since = finding.since or to_datetime(now)
    facts = {
        "at": format_time(to_datetime(now)), "change": "begun", "since": format_time(since), "level": finding.level,
        "evidence": finding.evidence, "meaning": finding.meaning, "help": finding.help,
    }  # fmt: skip
    return json.dumps({**facts, **finding.about})


def _end(data: bytes, now: int) -> str:
    return json.dumps({**json.loads(data), "at": format_time(to_datetime(now)), "change": "ended"})
