"""One maintenance pass.

Its steps are those of ``Cycle``, in their order: lost tasks first, then batches, results and routines, then the ladder
and the alerts. The error of one step never stops the next. In the end the counts of all steps are added to those of all
passes.

The leader runs a pass every ``perpetual_cycle_interval`` seconds; any other process may run one. Two passes at once are
harmless: every step works off a list, and the call of the store that does the work of an entry also removes it. A short
lock keeps the second pass from asking for nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from threading import Lock as ThreadLock
from typing import Any

from celery_perpetual import events
from celery_perpetual.beat.cycle_result import CycleResult
from celery_perpetual.beat.orphans import KnownUnits, Orphans
from celery_perpetual.completions.batches import do_follow_ups, waiting_follow_ups
from celery_perpetual.completions.owed_results import owed_list, store_owed
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.health.alerts import Alerts
from celery_perpetual.ledger.staged import staged_list, sweep_staged
from celery_perpetual.namespace import Namespace
from celery_perpetual.pauses import EVERYTHING, Pauses
from celery_perpetual.publishing.courier import Courier
from celery_perpetual.recovery.old_states import OldStates
from celery_perpetual.recovery.sweep import Sweep
from celery_perpetual.routines.clock_steps import pull_back_routines
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.routines.forgetting import forget_routines
from celery_perpetual.routines.routine import ENQUEUED
from celery_perpetual.starvation.assistance import LONGEST_HOOK
from celery_perpetual.starvation.ladder import Ladder
from celery_perpetual.starvation.replaced import ReplacedItems
from celery_perpetual.store.commands.lock import Lock
from celery_perpetual.store.commands.stats import add_pass, work_counts
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime

#: A pass that dies holds up the others for no longer, in seconds. It is prolonged before each step.
LOCK_SECONDS = 5.0

#: For so many seconds a pass of a process that may end waits for workers and hooks that it has asked.
LONGEST_HELP = LONGEST_HOOK + 2.0


class Cycle:
    """Runs passes of one namespace, one after the other; it remembers from pass to pass what was missing."""

    def __init__(self, namespace: Namespace, known: Callable[[], KnownUnits], due: DueRuns | None = None) -> None:
        """Nothing is done yet.

        Args:
            namespace: whose passes they are.
            known: returns what the code of this process says about units.
            due: starts due routines; that of a beat knows its mark.
        """
        self._store = namespace.store
        self._is_alone = False
        self._passes: dict[int, ThreadLock] = {}
        """Of this process, by its id: a process that was forked in the middle of a pass gets a lock of its own."""
        self._lock = Lock(self._store, self._store.keys.cycle, LOCK_SECONDS)
        states, replaced = (
            OldStates(self._store),
            ReplacedItems(namespace.app, self._store, namespace.settings.starvation),
        )
        sweep, orphans = Sweep(namespace.app, namespace.grants), Orphans(self._store, known)
        outbox, staged, follow_ups, owed = (
            namespace.runner.publisher.outbox,
            staged_list(self._store),
            waiting_follow_ups(self._store),
            owed_list(self._store),
        )
        self._lists = (outbox, staged, follow_ups, owed)
        # Sending and result backends may wait, and schedules of routines may be code of the user's.
        relay, batches = Courier("relay", of_list=True), Courier("batches", of_list=True)
        starter, clock, results = Courier("routines"), Courier("clock"), Courier("results", of_list=True)
        self._ladder, alerts = Ladder(namespace), Alerts(namespace)
        runs = due or DueRuns(namespace.app, self._store, namespace.runner.publisher)
        self._steps: dict[str, Callable[[], dict[str, Any]]] = {
            "sweep": lambda: _swept(sweep),
            "relay": lambda: {"relayed": relay.run(lambda: _relay(namespace))},
            "routines_due": lambda: {"routines_started": starter.run(lambda: _start(namespace, runs))},
            "batches": lambda: {"batches": batches.run(lambda: do_follow_ups(namespace.app, self._store, follow_ups))},
            "results": lambda: _owed(namespace, results, owed),
            "staged": lambda: {"unstaged": sweep_staged(self._store, staged)},
            "counts": lambda: work_counts(self._store)._asdict(),
            "starvation": lambda: _climbed(namespace, self._ladder, whole=self._is_alone),
            "pauses": lambda: _trim(namespace.pauses),
            "states": lambda: _go_through(states, replaced, whole=self._is_alone),
            "orphans": lambda: {"orphans": orphans.drop()},
            "routines": lambda: {"forgotten": forget_routines(self._store)},
            "alerts": lambda: {"alerts": alerts.once()},
            "clock": lambda: {"pulled_back": clock.run(lambda: pull_back_routines(self._store))},
        }

    def once(self, *, is_alone: bool = False) -> CycleResult:
        """Run one pass.

        Args:
            is_alone: the process may end after it. So it sees all that waits for a worker, and what it asks for on that
                account is done when it returns, or half a minute later.

        Raises:
            StoreUnavailable: the store did not answer at all; nothing was done.
        """
        begun, started_at = time.monotonic(), to_datetime(self._store.now())
        mine = self._passes.setdefault(os.getpid(), ThreadLock())
        # The lock in the store may expire during a step, and the steps of two threads share what they remember.
        if not mine.acquire(blocking=False):
            return CycleResult(started_at=started_at, seconds=time.monotonic() - begun, busy=True)
        try:
            self._is_alone = is_alone
            if not self._lock.acquire():
                return CycleResult(started_at=started_at, seconds=time.monotonic() - begun, busy=True)
            facts, errors = self._go()
        finally:
            mine.release()
        put_off = {entry: why for each in self._lists for entry, why in each.put_off.items()}
        seconds = time.monotonic() - begun
        result = CycleResult(started_at=started_at, seconds=seconds, put_off=put_off, errors=errors, **facts)
        try:
            add_pass(self._store, result.counts, {name: text.partition("\n")[0] for name, text in errors.items()})
        except StoreUnavailable as error:
            emit(events.STORE_UNREACHABLE, part="step stats of the cycle", error=error)
        if is_alone:
            self._ladder.finish(LONGEST_HELP)
        return result

    def _go(self) -> tuple[dict[str, Any], dict[str, str]]:
        """Take each step, under the lock; returns its facts, and the errors by step."""
        facts: dict[str, Any] = {}
        errors: dict[str, str] = {}
        try:
            for name, step in self._steps.items():
                try:
                    self._lock.keep()  # if it has expired, another pass may have begun, which is harmless
                    facts |= step()
                except StoreUnavailable as error:
                    errors[name] = described(error)
                    emit(events.STORE_UNREACHABLE, part=f"step {name} of the cycle", error=error)
                except Exception as error:
                    errors[name] = described(error)
                    emit(events.CYCLE_STEP_FAILED, step=name, error=error)
        finally:
            self._lock.release()
        return facts, errors


def _relay(namespace: Namespace) -> int:
    publisher = namespace.runner.publisher
    try:
        return publisher.relay()
    finally:
        publisher.release()  # the connection of this thread, which ends


def _start(namespace: Namespace, due: DueRuns) -> int:
    """Start what is due; where a beat leads, its clock is mostly faster."""
    try:
        found = due.read()
        return 0 if found is None else sum(run.status == ENQUEUED for run in due.start(found))
    finally:
        namespace.runner.publisher.release()  # the connection of this thread, which ends


def _owed(namespace: Namespace, courier: Courier, owed: WorkList) -> dict[str, Any]:
    if not owed.is_empty():
        courier.run(lambda: store_owed(namespace.app, namespace.store, owed))
    return {}


def _trim(pauses: Pauses) -> dict[str, Any]:
    pauses.trim()
    return {}


def _go_through(states: OldStates, replaced: ReplacedItems, *, whole: bool) -> dict[str, Any]:
    states.forget()
    replaced.once(whole=whole)
    return {}


def _climbed(namespace: Namespace, ladder: Ladder, *, whole: bool) -> dict[str, Any]:
    if EVERYTHING in namespace.pauses.now():
        return {"paused": True}
    found = ladder.once(whole=whole)
    return {
        "starving": found.starving, "noticed": tuple(found.noticed), "woken": tuple(found.woken),
        "spawned": tuple(found.spawned), "starved_ids": tuple(found.starved), "parked_ids": tuple(found.parked),
    }  # fmt: skip


def _swept(sweep: Sweep) -> dict[str, Any]:
    found = sweep.once()
    return {
        "swept": found.leases, "restored": found.restored, "missed": found.missed, "resent": found.sent,
        "resent_ids": tuple(found.sent_ids),
        "held_until": to_datetime(found.held_until) if found.held_until else None,
    }  # fmt: skip
