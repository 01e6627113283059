"""Units that are due to be polled, as a source of the clock."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from celery_perpetual import events
from celery_perpetual.beat.due import DueReader, DueUnits
from celery_perpetual.beat.poll_counts import PollCounts
from celery_perpetual.beat.registration import Registration
from celery_perpetual.beat.roster import Roster
from celery_perpetual.beat.schedules import ScheduleFailed, Schedules
from celery_perpetual.errors import StoreRefused
from celery_perpetual.failures.policies import DEGRADED
from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.closing import PollEnds, broke_off
from celery_perpetual.polling.depths import QueueDepths
from celery_perpetual.polling.end import PollEnd, failed, gate_closed, kept_waiting, still_hanging, timed_out
from celery_perpetual.polling.gates import Closed, first_closed
from celery_perpetual.polling.permits import Permits, source_of
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import MOST_ENDS, PollThreads
from celery_perpetual.store.commands.leadership import Mark
from celery_perpetual.store.connection import Store
from celery_perpetual.tasks.cadence import Occurrence
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit
from celery_perpetual.times import ms

#: Longest pause between two looks: a nudge from another process waits no longer.
LONGEST_PAUSE = 0.5
#: The same where units are refilled when few items are left.
REFILL_PAUSE = 0.04
#: Pause where all threads are taken; the end of a poll cuts it short.
NO_ROOM = 0.02
#: Units that come due within so many seconds are claimed by one call. Ends that come so soon before a unit is due are
#: stored with its claim.
TOGETHER = 0.04
#: So many ends do not wait for others.
MANY_ENDS = 10
#: Most units claimed by one call.
MOST_CLAIMS = 50
#: Threads that send polls to the workers.
SENDERS = 2
#: The poll of a suspect unit has no company for so many seconds. A poll that kills mostly does so at once, and one that
#: hangs must not hold up the others; a poll that kills later is known all the same, because it was open both times.
ALONE_SECONDS = 0.5
#: A unit that the store refuses is left alone for so many seconds.
PUT_ASIDE = 60.0


class PollSource:
    """Claims due units and runs their polls on threads of this process, or sends them to workers."""

    def __init__(self, store: Store, roster: Roster, runner: Runner, threads: PollThreads, mark: Mark) -> None:
        self._roster = roster
        self._threads = threads
        self._policies = runner.policies
        self._preflights = runner.preflights
        self._schedules = Schedules()
        self._claims = Claims(store, mark)
        self._permits = Permits(store)
        self._depths = QueueDepths(runner.app)
        self._reader = DueReader(self._claims)
        self.counts = PollCounts()
        self._ends = PollEnds(store.clone())
        self._registration = Registration(store, roster, self._schedules)
        self._senders = PollThreads(runner.poll, SENDERS, 0)
        """Threads that only send polls to workers; no user code runs on them."""
        self._alone: str | None = None
        """A unit whose poll was open when a leader died begins without company: if it kills again, it is known."""
        self._aside: dict[str, float] = {}
        """Units that the store has refused, until when they are left alone (monotonic)."""
        self._lacked_room = False
        """No poll could start in this turn."""
        self._turns_soon = False
        """The clock turns before long, and stores the ends that wait: one more end need not wake it."""
        self._ahead_of_us: int | None = None
        """The store's time minus this process's monotonic clock, ms."""

    @property
    def busy(self) -> bool:
        return bool(self._threads.running)

    def call_when_ready(self, wake: Callable[[], object]) -> None:
        """Have something called, on another thread, when there may be more to do."""
        self._schedules.answered = wake

        def ended(waits: bool) -> None:
            if not waits or self._lacked_room or not self._turns_soon:
                wake()

        self._threads.on_end = ended

    def begin_storing(self) -> Callable[[], float]:
        self._turns_soon = False
        for claim in self._threads.overdue():
            self._store(timed_out(claim, self._policies.unknown(claim.failures)))
        late = self._threads.kept_waiting()
        self.counts.take_back(late)
        for claim in late:
            self._threads.has_ended(kept_waiting(claim))
        if self._threads.stored_themselves():
            self._reader.forget()  # a batch may make its unit due at once
        until_due = self._reader.pause
        if 0 < until_due <= self._together and 0 < self._threads.ends_waiting < MANY_ENDS and not self._lacked_room:
            self._turns_soon = True
            return lambda: until_due
        ends = self._threads.ended()
        if not ends:
            return lambda: self._longest_pause
        stored = self._ends.begin(ends)

        def finish() -> float:
            try:
                are_on_grid = stored()
            finally:
                self._threads.were_stored(ends)
            if not are_on_grid:
                self._reader.forget()
            elif len(ends) < MOST_ENDS and not self._lacked_room:
                return self._longest_pause
            # Units may be due again at once; without a free thread the end of a poll wakes us.
            return 0.0 if self._threads.free or len(ends) >= MOST_ENDS else NO_ROOM

        return finish

    def due(self, leader: str) -> DueUnits | float:
        self._schedules.begin_turn()
        if self._registration.go_on(leader):
            self._reader.forget()
        room = self._room
        self._lacked_room = not room or self._alone_runs
        if self._lacked_room:
            return NO_ROOM
        found = self._reader.take(leader, room, self._longest_pause, self._together)
        self._notice_a_step(found)
        if not found.rows:
            if found.following is None:
                self._registration.nothing_is_due()
            return 0.0 if self._registration.unfinished else self._reader.pause
        return found

    def claim(self, leader: str, due: DueUnits) -> list[Claim]:
        known = self._roster.units
        strange = [row.unit for row in due.rows if row.unit not in known]
        self._registration.forget(leader, [unit for unit in strange if not self._roster.may_come(unit)])
        rows = [row for row in due.rows if row.unit in known and self._aside.get(row.unit, 0.0) < time.monotonic()]
        suspects = [row for row in rows if row.suspect]
        if suspects:
            self._reader.forget()
            if any(claim.age < ALONE_SECONDS for claim in self._threads.running):
                return []
            rows = suspects[:1]
            self._alone = rows[0].unit
        rows = [row for row in rows if self._depths.is_ready(known[row.unit].contract)]
        wanted: list[tuple[TaskUnit, Occurrence]] = []
        errors: dict[str, ScheduleFailed] = {}
        for row in rows:
            unit = known[row.unit]
            try:
                occurrence = self._schedules.occurrence(unit, row.at, row.anchor, row.trigger, due.now)
            except ScheduleFailed as error:
                occurrence, errors[unit.name] = Occurrence(row.at, due.now + DEGRADED.first_ms), error
            if occurrence is not None:
                wanted.append((unit, occurrence))
        quiet = self._quiet(leader, [unit for unit, _ in wanted if source_of(unit)])
        wanted = [each for each in wanted if not source_of(each[0]) or each[0].name in quiet]
        claims = self._claimed(leader, due.seen, wanted)
        self.counts.note(claims)
        for claim in claims:
            claim.quiet_until = quiet.get(claim.unit.name, 0)
            claim.error = claim.error or errors.get(claim.unit.name)
        return claims

    def start(self, claims: Sequence[Claim]) -> float:
        worn_out, here, ends_wait = self._threads.worn_out, [], False
        for claim in claims:
            if claim.error is not None:
                self._store(failed(claim, claim.error, self._policies.unknown(claim.failures)))
            elif (closed := self._closed(claim)) is not None:
                self._threads.has_ended(gate_closed(claim, closed))
                ends_wait = True
            elif claim.runs_in_worker or worn_out:
                claim.runs_in_worker = True
                self._senders.start(claim)
            elif (hanging := self._threads.hanging(claim.unit.name)) is not None:
                self._store(still_hanging(claim, hanging))
            else:
                here.append(claim)
        self._threads.start(*here)
        if ends_wait:  # no thread wakes the clock for them
            return 0.0
        return self._reader.pause if claims and self._room else NO_ROOM

    def _closed(self, claim: Claim) -> Closed | None:
        """The first gate that is closed, as far as it is known without a thread."""
        return first_closed(claim) or self._depths.closed(claim) or self._preflights.known_closed(claim)

    def _quiet(self, leader: str, units: list[TaskUnit]) -> dict[str, int]:
        """Until when the sources of these units are to be left alone; units without a permit are left out."""
        try:
            return self._permits.take(leader, units) if units else {}
        except StoreRefused as error:
            emit(events.PART_FAILED, part="the pace of a source", error=error)
            return {unit.name: 0 for unit in units}

    def _claimed(self, leader: str, seen: int, wanted: list[tuple[TaskUnit, Occurrence]]) -> list[Claim]:
        """One unit that the store refuses, over a key of a wrong type, does not hold up the others."""
        try:
            answers = self._claims.by_leader(leader, seen, wanted) if wanted else []
        except StoreRefused as error:
            if len(wanted) > 1:
                return [claim for one in wanted for claim in self._claimed(leader, seen, [one])]
            name = wanted[0][0].name
            self._aside[name] = time.monotonic() + PUT_ASIDE
            emit(events.PART_FAILED, part=f"the claim of {name}", error=error)
            return []
        claims = [answer for answer in answers if isinstance(answer, Claim)]
        self._reader.claimed(claims)
        return claims

    def _store(self, end: PollEnd) -> None:
        """Store one end; where the store refuses it, its claim expires and the others go on."""
        self._reader.forget()
        try:
            self._ends.store_one(end)
        except StoreRefused as error:
            broke_off(end.claim, error)

    @property
    def _longest_pause(self) -> float:
        """The end of a task in another process makes a unit with ``low_water`` due, and no message says so."""
        return REFILL_PAUSE if self._roster.has_low_water else LONGEST_PAUSE

    @property
    def _together(self) -> float:
        """For so many seconds a unit or an end waits for others; a unit with a short interval has not the time."""
        return 0.0 if self._roster.is_hurried else TOGETHER

    @property
    def _room(self) -> int:
        return min(MOST_CLAIMS, self._senders.free if self._threads.worn_out else self._threads.free)

    @property
    def _alone_runs(self) -> bool:
        return self._alone is not None and any(
            claim.unit.name == self._alone and claim.age < ALONE_SECONDS for claim in self._threads.running
        )

    def _notice_a_step(self, found: DueUnits) -> None:
        """After a step back of the store's clock, times that were stored before may lie ahead."""
        ahead, before = found.now - ms(time.monotonic()), self._ahead_of_us
        if before is not None and ahead < before - 1000:
            self._registration.start_over()
        self._ahead_of_us = ahead
