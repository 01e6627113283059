"""The clock: claims what is due and hands it to the poll threads.

It runs on a thread of its own, so that a slow store, a slow broker or ten thousand due units never hold up the ticks
of the base scheduler, and the other way round. It runs no user code.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from hashlib import blake2b
from itertools import islice
from queue import Empty, SimpleQueue

from celery_perpetual import events
from celery_perpetual.beat.due import DueReader, DueUnits
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.roster import Roster
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.polling.claims import Claim, Claims, NotLeading
from celery_perpetual.polling.closing import PollEnds
from celery_perpetual.polling.end import still_hanging, timed_out
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import MOST_ENDS, PollThreads
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

#: Longest pause between two looks: a nudge from another process waits no longer.
LONGEST_PAUSE = 0.5
#: Pause where all threads are taken; the end of a poll cuts it short.
NO_ROOM = 0.02
#: Most units claimed by one call.
MOST_CLAIMS = 100
#: First polls of more units than this are spread over the interval, at most over ten seconds.
MANY_UNITS = 20
LONGEST_SPREAD_MS = 10_000
#: Threads that send polls to the workers.
SENDERS = 2
#: Units are registered again this often, in seconds: a unit that is not registered any more is orphaned.
REGISTER_EVERY = 3600
#: What one turn may spend on that, in seconds.
REGISTER_SECONDS = 0.02


class Clock(threading.Thread):
    """Claims due units while this process leads."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        roster: Roster,
        runner: Runner,
        threads: PollThreads,
        entry_runs: EntryRuns,
    ) -> None:
        super().__init__(name="perpetual-clock", daemon=True)
        self._store = store.clone()
        self._leadership = leadership
        self._roster = roster
        self._runner = runner
        self._threads = threads
        self._base_runs = entry_runs
        self._claims = Claims(self._store)
        self._ahead = DueReader(self._claims)
        self._ends = PollEnds(store.clone())
        self._registered: tuple[str, int, int] | None = None
        self._unregistered: deque[TaskUnit] = deque()
        self._senders = PollThreads(runner.poll, SENDERS, 0)
        """Threads that only send polls to workers; no user code runs on them."""
        self._alone: str | None = None
        """A unit whose poll was open when a leader died runs without company: if it kills again, it is known."""
        self._halt = threading.Event()
        self._wakes: SimpleQueue[None] = SimpleQueue()
        self._woken = False
        """A look is due that sees all that happened before; more wakes would only repeat it."""

    def halt(self) -> None:
        """Claim nothing from now on."""
        self._halt.set()
        self.wake()

    def wake(self) -> None:
        """Look now. May be called from a signal handler that interrupts another call: this queue takes no lock."""
        if not self._woken:
            self._woken = True
            self._wakes.put(None)

    def rest(self, pause: float) -> None:
        """Wait for so many seconds, or until another thread wakes the clock."""
        with suppress(Empty):
            self._wakes.get(timeout=pause)
        self._woken = False

    def run(self) -> None:
        while not self._halt.is_set() or self._threads.running:
            try:
                pause = self.turn()
            except NotLeading:
                self._leadership.lost()
                pause = 0.05
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part="the clock", error=error)
                pause = LONGEST_PAUSE
            except Exception as error:
                emit(events.PART_FAILED, part="the clock", error=error)
                pause = LONGEST_PAUSE
            self.rest(pause)

    def turn(self) -> float:
        """Store the ends of polls that there are, and have one look at what is due; seconds until the next."""
        ends = self._threads.ended()
        if not ends:
            return self._look()
        try:
            stored = self._ends.begin(ends)
            try:
                pause = self._look()  # while the store works on them
            finally:
                stored()
        finally:
            self._threads.were_stored(ends)
        # Units that have been polled may be due again at once; without a free thread, the end of a poll cuts the pause.
        waits = pause == NO_ROOM and not self._threads.free and len(ends) < MOST_ENDS
        return NO_ROOM if waits else 0.0

    def _look(self) -> float:
        if self._halt.is_set():
            return LONGEST_PAUSE
        for claim in self._threads.overdue():
            self._ends.store_one(timed_out(claim))
        leader = self._leadership.value
        if leader is None:
            return 0.05
        self._base_runs.save()
        self._keep_registered(leader)
        worn_out = self._threads.worn_out
        room = self._room(worn_out)
        if not room or self._alone_runs():
            return NO_ROOM
        look = self._ahead.take(leader, room)
        rows = look.rows
        if not rows and self._unregistered:
            return 0.0
        if not rows:
            return _pause(look)
        self._forget(leader, [row.unit for row in rows if row.unit not in self._roster.units])
        if any(row.suspect for row in rows):
            self._ahead.forget()
            if self._threads.running:
                return NO_ROOM
            rows = [row for row in rows if row.suspect][:1]
            self._alone = rows[0].unit
        claims = self._claim(leader, look._replace(rows=rows))
        for claim in claims:
            claim.runs_in_worker = claim.runs_in_worker or worn_out
        self._start(claims)
        return 0.0 if self._room(worn_out) else NO_ROOM

    def _room(self, worn_out: bool) -> int:
        return min(MOST_CLAIMS, self._senders.free if worn_out else self._threads.free)

    def _alone_runs(self) -> bool:
        return self._alone is not None and any(claim.unit.name == self._alone for claim in self._threads.running)

    def _claim(self, leader: str, look: DueUnits) -> list[Claim]:
        wanted = [
            (unit, unit.contract.cadence.occurrence(row.at, row.anchor, row.trigger, look.now))
            for row in look.rows
            if (unit := self._roster.units.get(row.unit)) is not None
        ]
        if not wanted or self._halt.is_set():
            return []
        return [answer for answer in self._claims.by_leader(leader, look.seen, wanted) if isinstance(answer, Claim)]

    def _start(self, claims: list[Claim]) -> None:
        here = []
        for claim in claims:
            if claim.runs_in_worker:
                self._senders.start(claim)
            elif (hanging := self._threads.hanging(claim.unit.name)) is not None:
                self._ends.store_one(still_hanging(claim, hanging))
            else:
                here.append(claim)
        self._threads.start(*here)

    def _keep_registered(self, leader: str) -> None:
        """Begin anew when the term, the registry or the hour has changed, and go on where there is something left."""
        self._roster.refresh()
        registration = (leader, self._roster.version, int(time.monotonic() // REGISTER_EVERY))
        if self._registered != registration:
            self._forget(leader, sorted(self._roster.disabled))
            self._unregistered = deque(self._roster.units.values())
            self._registered = registration
        if self._unregistered:
            self._register(leader)

    def _register(self, leader: str) -> None:
        """Make some of this process's units known, as many as fit into a moment.

        A hundred thousand take seconds: what the store knows from before is polled meanwhile, and the rest from when
        its turn has come.
        """
        units = len(self._roster.units)
        now, until = self._store.now(), time.monotonic() + REGISTER_SECONDS
        while self._unregistered and time.monotonic() < until:
            part = list(islice(self._unregistered, MOST_CLAIMS))
            rows: list[str | int] = []
            for each in part:
                cadence = each.contract.cadence
                first = cadence.first(now, _spread(each, units))
                rows += [each.name, cadence.spec, cadence.every_ms or "", first]
            pulled_back = script("register")(self._store, mine=leader, rows=rows)
            if pulled_back < 0:
                raise NotLeading
            if pulled_back:
                emit(events.CLOCK_STEPPED, units=pulled_back)
            for _ in part:
                self._unregistered.popleft()

    def _forget(self, leader: str, units: list[str]) -> None:
        if units and not script("unschedule")(self._store, mine=leader, units=units):
            raise NotLeading


def _pause(look: DueUnits) -> float:
    """Seconds until something is due."""
    if look.following is None:
        return LONGEST_PAUSE
    return max(0.001, min(LONGEST_PAUSE, (look.following - look.now) / 1000))


def _spread(unit: TaskUnit, units: int) -> float:
    """Milliseconds, the same on every beat."""
    if units <= MANY_UNITS:
        return 0
    share = int.from_bytes(blake2b(unit.name.encode(), digest_size=4).digest(), "big") / 2**32
    return share * min(unit.contract.cadence.every_ms or LONGEST_SPREAD_MS, LONGEST_SPREAD_MS)
