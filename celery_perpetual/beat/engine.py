"""Starts and stops all threads that run in a beat: leadership, clock, cycle and poll threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from celery_perpetual import events
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.maintenance import Maintenance
from celery_perpetual.beat.poll_counts import PollCounts
from celery_perpetual.beat.poll_source import PollSource
from celery_perpetual.beat.roster import Roster
from celery_perpetual.beat.routine_source import RoutineSource
from celery_perpetual.beat.store_identity import StoreIdentity
from celery_perpetual.beat.tenants import TenantLists
from celery_perpetual.errors import StoreRefused
from celery_perpetual.leases.workers import app_name
from celery_perpetual.namespace import Namespace
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.polling.end import given_up
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import MOST_ENDS, PollThreads
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.store.chunks import chunks
from celery_perpetual.telemetry import emit

#: How long a stopping beat waits for the release of its lead; SIGTERM must end it within seconds.
STOP_WAIT = 3.0


class BeatThread(Protocol):
    """A thread of a beat."""

    def start(self) -> None: ...

    def halt(self) -> None:
        """Begin nothing more."""
        ...


@dataclass(frozen=True, slots=True)
class Beside:
    """The part of the engine that a thread of the base scheduler may use."""

    leader: Callable[[], str | None]
    """``owner:term`` while this beat leads."""
    roster: Roster
    counts: PollCounts


class Engine:
    """The perpetual part of one beat process."""

    def __init__(self, namespace: Namespace) -> None:
        """Read the settings; nothing runs yet.

        Raises:
            SettingsError: a setting is wrong.
        """
        self.namespace = namespace
        self.settings = namespace.settings
        self.store = namespace.store
        self.entry_runs = EntryRuns(self.store)
        self.lead_health = LeadHealth()
        self._leadership: Leadership | None = None
        self._threads: list[BeatThread] = []
        self._stop_by: float | None = None

    @property
    def leads(self) -> bool:
        """Whether this beat may act as leader right now. Never asks the store."""
        return self._leadership is not None and self._leadership.leads

    @property
    def leader(self) -> str | None:
        """``owner:term`` of this beat while it may act as leader; it names one period of leadership."""
        return None if self._leadership is None else self._leadership.value

    def lead_is_lost(self, error: NotLeading) -> None:
        """The base scheduler was stopped by this error."""
        if self._leadership is not None and error.refused is not None:
            self._leadership.lost(error.refused)

    @property
    def fatal_reason(self) -> str:
        """Why this beat is to end, "" if it is not."""
        return self.namespace.runner.preflights.fatal_reason

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop_by is not None

    def start(
        self,
        meanwhile: Callable[[], object] = lambda: None,
        beside: Callable[[Beside], Sequence[BeatThread]] = lambda _: (),
    ) -> None:
        """Discover, reach the store, try to lead, and start the threads.

        Args:
            meanwhile: called while it waits for the store; what it raises ends the wait.
            beside: makes further threads.

        Raises:
            SettingsError: the prefix belongs to another app.
            ContractError: a perpetual task is wrong.
            StoreUnavailable: no contact with the store within ``perpetual_store_wait``.
        """
        app, settings, store = self.namespace.app, self.settings, self.store
        roster = Roster(app, settings)
        if getattr(app, "perpetual", None) is None:
            emit(events.WIRING_MISSING, means="no worker announces how items end", advice="Perpetual(app)")
        store.wait(settings.store_wait, meanwhile)
        leadership = Leadership(
            store,
            app_name=app_name(app),
            ttl=settings.leader_ttl,
            health=self.lead_health,
        )
        leadership.knows(len(roster.discovery.tasks), roster.discovery.digest())
        runner = self.namespace.runner
        runner.publisher.broker.heard = self.lead_health.published
        polls = PollThreads(runner.poll, settings.poll_threads, settings.max_abandoned_polls)
        source = PollSource(store.clone(), roster, runner, polls, leadership.mark)
        routines = RoutineSource(self._due_runs(leadership))
        clock = Clock(leadership, self.entry_runs, [source, routines], self.lead_health)
        self.entry_runs.on_run = clock.wake
        source.call_when_ready(clock.wake)
        routines.ready = clock.wake
        memory = StoreIdentity(
            store,
            self.namespace.pauses,
            owner=leadership.owner,
            mark=leadership.mark,
            pause=settings.on_store_lost == "pause",
        )
        tenants = TenantLists(store.clone(), roster, leadership, settings.tenants_ttl)
        tenants.on_change = clock.wake
        cycle = Cycle(self.namespace, lambda: roster, self._due_runs(leadership))
        maintenance = Maintenance(cycle, leadership, settings.cycle_interval, memory.refresh)
        more = beside(Beside(lambda: self.leader, roster, source.counts))
        self._leadership, self._threads = leadership, [clock, maintenance, tenants, *more]
        leadership.start(before_resigning=lambda leader: self._let_go(leader, runner, polls), saw_epoch=memory.saw)
        for thread in self._threads:
            thread.start()

    def _due_runs(self, leadership: Leadership) -> DueRuns:
        """For one thread."""
        publisher = self.namespace.runner.publisher
        return DueRuns(self.namespace.app, self.store.clone(), publisher, leadership.owner, leadership.mark)

    def stop(self) -> None:
        """Claim nothing more and release the lead; returns within seconds.

        It takes no lock and uses no connection that the interrupted tick may hold. Calling it again waits for what is
        left of the time: a second SIGTERM may have cut the first call short.
        """
        if self._stop_by is None:
            self._stop_by = time.monotonic() + STOP_WAIT
            for thread in self._threads:
                thread.halt()
        if self._leadership is not None:
            self._leadership.stop(max(0.0, self._stop_by - time.monotonic()))

    def _let_go(self, leader: str, runner: Runner, polls: PollThreads) -> None:
        """Work that the next leader should not wait for, done while this one still holds the lead."""
        with suppress(NotLeading, StoreRefused):
            self.entry_runs.save(leader)
        while ended := polls.ended():  # they wait for the clock, which may have stopped
            runner.ends.begin(ended)()
            polls.were_stored(ended)
        ends = [given_up(claim) for claim in polls.running if not claim.committed]
        for part in chunks(ends, MOST_ENDS):
            runner.ends.begin(part)()
