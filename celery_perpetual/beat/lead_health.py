"""Whether this beat can do its work while it leads: run the base scheduler, poll, and bring what is due to the broker.

A beat whose schedule file cannot be written, or whose broker or database is out of its reach, must not keep the lead
from others. After a while it steps down and lets them go first. If it is the only beat, it leads again: the perpetual
tasks are polled, and it tries for twice as long before it steps down again. For batches that it cannot publish, and for
a clock that hangs or fails, a sole beat does not step down: nothing is gained by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import attrgetter
from typing import NamedTuple

from celery_perpetual.errors import described

#: A tick of the base scheduler, or a turn of the clock, that takes longer hangs, in seconds.
LONGEST_TICK = 30.0
#: Trouble for so many seconds makes the leader step down, the first time and at most.
FIRST_PATIENCE, LONGEST_PATIENCE = 3.0, 600.0


class _Fault:
    """One kind of error, which may last."""

    def __init__(self) -> None:
        self.since: float | None = None
        """When it came, monotonic; None where it is over, or another lead has begun."""
        self.last = 0.0
        """When it was seen last."""
        self.error = ""
        """The newest one; empty where it is over."""

    def note(self, error: BaseException | None) -> None:
        """It has come or lasts, or it is over (None)."""
        if error is None:
            self.since, self.error = None, ""
        else:
            self.error, self.last = described(error), time.monotonic()
            self.since = self.since or self.last


class _Present(NamedTuple):
    """A fault that is there now."""

    text: str
    lasted: float
    """Seconds."""
    counts_alone: bool
    """Whether a sole beat steps down for it too."""


class LeadHealth:
    """The errors of the base scheduler's ticks, of the clock and of publishers; other threads ask for them."""

    def __init__(self) -> None:
        self._tick_begun: float | None = None
        self._turn_begun: float | None = None
        self._ticks, self._entries, self._batches, self._turns, self._runs = (_Fault() for _ in range(5))
        self._patience = FIRST_PATIENCE
        self._stepped_down = 0.0
        """When this beat stepped down the last time, monotonic."""

    def lead_begins(self) -> None:
        """This beat leads from now on; what went wrong in an earlier lead says nothing."""
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._ticks.since = self._entries.since = self._batches.since = self._turns.since = None

    def tick_begins(self) -> None:
        """A tick begins while this beat leads."""
        self._tick_begun = time.monotonic()

    def tick_ended(self, error: BaseException | None = None) -> None:
        """The tick has ended."""
        self._tick_begun = None
        self._ticks.note(error)
        still_in_trouble = self._entries.error or self._batches.error or self._turns.error or _hangs(self._turn_begun)
        if error is None and not still_in_trouble:
            self._patience = FIRST_PATIENCE

    def turn_begins(self) -> None:
        """A turn of the clock begins, in which units are claimed and polls are started."""
        self._turn_begun = time.monotonic()

    def turn_ended(self, error: BaseException | None = None) -> None:
        """The turn has ended; an error that is not the store's may be this process's own, such as a lack of threads."""
        self._turn_begun = None
        if error is not None or self._turns.error:
            self._turns.note(error)

    def entry_sent(self, error: BaseException | None = None) -> None:
        """An entry was sent, or could not be, as the broker is out of reach. Celery's own tick does not say so."""
        self._entries.note(error)

    def published(self, error: BaseException | None = None) -> None:
        """Messages of a batch were published, or could not be, as the broker is out of reach or refuses this user."""
        self._batches.note(error)

    def kept(self, error: BaseException | None = None) -> None:
        """The base scheduler has stored the runs of entries, or could not; that alone is no reason to step down."""
        self._runs.note(error)

    @property
    def trouble(self) -> str | None:
        """The present fault; of several, the one that has lasted longest."""
        faults = self._faults()
        return max(faults, key=_lasted).text if faults else None

    def why_to_step_down(self, has_standby: Callable[[], bool]) -> str | None:
        """The trouble, if it has lasted for long; asked while this beat leads.

        Args:
            has_standby: whether another beat is there to take over.
        """
        faults = [fault for fault in self._faults() if fault.lasted >= self._patience]
        if not any(fault.counts_alone for fault in faults) and not (faults and has_standby()):
            return None
        self._stepped_down = time.monotonic()
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        self._begin_anew()
        return max(faults, key=_lasted).text

    def _faults(self) -> list[_Present]:
        """All that there are now.

        A batch is tried again only some seconds later, and a turn may come late: one that has failed once says nothing
        of the time since then.
        """
        now, found = time.monotonic(), list[_Present]()
        steps = ("tick of the base scheduler", self._tick_begun, True), ("turn of the clock", self._turn_begun, False)
        for what, begun, counts_alone in steps:
            if begun is not None and _hangs(begun):
                lasted = now - max(begun, self._stepped_down)  # it goes on hanging while other beats go first
                found.append(_Present(f"a {what} has not returned for {now - begun:.0f} s", lasted, counts_alone))
        for what, fault, counts_alone in (
            ("the base scheduler fails", self._ticks, True),
            ("entries of the schedule cannot be sent", self._entries, True),
            ("batches cannot be published", self._batches, False),
            ("the clock fails", self._turns, False),
        ):
            if (since := fault.since) is not None:  # a publisher may end it meanwhile
                lasted = (now if counts_alone else fault.last) - since
                found.append(_Present(f"{what}: {fault.error}", lasted, counts_alone))
        if self._runs.since is not None:  # no reason to step down, however long it lasts
            found.append(_Present(f"the runs of entries cannot be stored: {self._runs.error}", 0.0, False))
        return found


_lasted = attrgetter("lasted")


def _hangs(begun: float | None) -> bool:
    """Whether the step that began then hangs."""
    return begun is not None and time.monotonic() - begun > LONGEST_TICK
