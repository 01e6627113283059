"""Makes the units of this process known to the store, some with each turn of the clock."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from hashlib import blake2b
from itertools import islice

from celery_perpetual import events
from celery_perpetual.beat.roster import Roster
from celery_perpetual.beat.schedules import ScheduleFailed, Schedules
from celery_perpetual.errors import StoreRefused
from celery_perpetual.polling.claims import NotLeading
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

#: Most units of one call.
AT_ONCE = 100
#: First polls of more units than this are spread over the interval, at most over ten seconds.
MANY_UNITS = 20
LONGEST_SPREAD_MS = 10_000
#: Or over so long for each unit, if that is longer: their slots stay as far apart, and a beat keeps up with them.
APART_MS = 1
#: Units are registered again this often, in seconds; one that is not for a week is unknown to every leader.
EVERY = 3600
#: And where not one unit has a due time any more, but no sooner than this after the last time, in seconds.
EVERY_WITHOUT = 5.0
#: The longest time of one turn for it, in seconds.
LONGEST_TURN = 0.02


class Registration:
    """Registers the units of a roster, and begins anew when the term, the roster or the hour has changed.

    A hundred thousand take seconds. What the store knows from before is polled meanwhile, and the rest from when its
    turn has come.
    """

    def __init__(self, store: Store, roster: Roster, schedules: Schedules) -> None:
        self._store = store
        self._roster = roster
        self._schedules = schedules
        self._done: tuple[str, int, int] | None = None
        self._anew_from = 0.0
        """When all may be registered anew for want of due times (monotonic)."""
        self._left: deque[TaskUnit] = deque()
        self._waiting: deque[TaskUnit] = deque()
        """Their schedules have not answered yet."""
        self._together = 0
        """How many came together: one that comes alone is polled at once, however many there are."""

    @property
    def unfinished(self) -> bool:
        """Whether units are left that can be registered now."""
        return bool(self._left)

    def start_over(self) -> None:
        """Register all units anew: stored times may be wrong."""
        self._done = None

    def nothing_is_due(self) -> None:
        """No unit has a due time: if there are any, their times have been deleted, and all are registered anew."""
        if self._roster.units and not self._left and time.monotonic() >= self._anew_from:
            self._anew_from = time.monotonic() + EVERY_WITHOUT
            self.start_over()

    def go_on(self, leader: str) -> bool:
        """Register as many as fit into a moment; whether due times may have changed.

        Raises:
            NotLeading: ``leader`` does not lead any more.
        """
        self._roster.refresh(leader)
        wanted = (leader, self._roster.version, int(time.monotonic() // EVERY))
        is_new = self._done != wanted
        if is_new:
            self.forget(leader, sorted(self._roster.disabled))
            self._left, self._waiting = deque(self._roster.units.values()), deque()
            self._done = wanted
        arrived, departed = self._roster.take_changes()
        self.forget(leader, departed)
        self._left.extend(arrived)
        self._together = max(self._together, len(self._left)) if self._left else 0
        if not self._left:
            self._left, self._waiting = self._waiting, self._left
        if not self._left:
            return is_new or bool(departed)
        now, until = self._store.now(), time.monotonic() + LONGEST_TURN
        while self._left and time.monotonic() < until:
            part = list(islice(self._left, AT_ONCE))
            self._register(leader, [unit for unit in part if self._roster.units.get(unit.name) is unit], now)
            for _ in part:
                self._left.popleft()
        return True

    def forget(self, leader: str, units: list[str]) -> None:
        """Take units out of the clock.

        Raises:
            NotLeading: ``leader`` does not lead any more.
        """
        for part in chunks([unit.encode(errors="surrogateescape") for unit in units]):
            if not script("unschedule")(self._store, mine=leader, units=part):
                raise NotLeading(leader)

    def _register(self, leader: str, units: Sequence[TaskUnit], now: int) -> None:
        rows: list[str | int] = []
        for unit in units:
            try:
                first = self._schedules.first(unit, now, _spread(unit, self._together))
            except ScheduleFailed:
                first = now  # its first poll shows what is wrong
            if first is None:
                self._waiting.append(unit)
            else:
                cadence = unit.contract.cadence
                rows += [unit.name, cadence.spec, cadence.every_ms or "", first]
        if rows:
            self._call(leader, rows)

    def _call(self, leader: str, rows: list[str | int]) -> None:
        """One unit that the store refuses, over a key of a wrong type, does not hold up the others."""
        try:
            pulled_back = script("register")(self._store, mine=leader, rows=rows)
        except StoreRefused as error:
            if len(rows) == 4:
                emit(events.PART_FAILED, part=f"the registration of {rows[0]}", error=error)
                return
            for row in chunks(rows, 4):
                self._call(leader, row)
            return
        if pulled_back < 0:
            raise NotLeading(leader)
        if pulled_back:
            emit(events.CLOCK_STEPPED, units=pulled_back)


def _spread(unit: TaskUnit, units: int) -> float:
    """Milliseconds, the same on every beat."""
    if units <= MANY_UNITS:
        return 0
    share = int.from_bytes(blake2b(unit.name.encode(), digest_size=4).digest(), "big") / 2**32
    longest = max(LONGEST_SPREAD_MS, units * APART_MS)
    return share * min(unit.contract.cadence.every_ms or LONGEST_SPREAD_MS, longest)
