"""Due units, read from the store some way ahead of the threads that are free for them.

Under load, one read serves several turns of the clock. Reading claims nothing. The claim gets the time of the read, and
refuses a unit that has changed since then (a poll by hand, a pause, another leader).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from celery_perpetual.polling.claims import Claim, Claims
from celery_perpetual.polling.due_lines import Due

#: So many times what there is room for is read.
AHEAD = 8
#: And no more than this, unless there is room for more.
MOST_AHEAD = 100
#: An answer that is older is read again, in seconds: a unit that has become due meanwhile may be older than the rest.
LONGEST = 0.05


class DueUnits(NamedTuple):
    """Units that are due, oldest first. Times are the store's, ms."""

    seen: int
    """When they were read."""
    now: int
    following: int | None
    """The next due time where nothing is due."""
    rows: list[Due]


class DueReader:
    """Reads what is due for one clock.

    The store is not asked while it is known what it would answer: the claim of a due unit stores its next due time,
    and the end of its poll changes that only where the caller then calls :meth:`forget`. What others change, such as
    a nudge of another process, is seen when the last read is older than ``longest``.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._rows: deque[Due] = deque()
        self._leader = ""
        self._seen = 0
        self._at = 0.0
        self._following: int | None = None
        """The first due time of the units that were not read, and of those that were claimed."""
        self._is_known = False
        """Whether what was read counts."""
        self._longest = self._shortest = 0.0
        """As of the last call."""
        self._unclaimed = 0
        """Units that were given out and not claimed: it is not known when these are due."""

    def take(self, leader: str, room: int, longest: float, shortest: float = 0.0) -> DueUnits:
        """At most ``room`` units that are due; they are not given again until the store is asked again.

        Args:
            longest: for so many seconds an answer counts that nothing is due.
            shortest: units that come due within so many seconds of a read are read together.
        """
        self._longest, self._shortest = longest, shortest
        if leader != self._leader or not (self._has_fresh_rows or self._left() > 0):
            self._ask(leader, max(room, min(MOST_AHEAD, AHEAD * room)))
        rows = [self._rows.popleft() for _ in range(min(room, len(self._rows)))]
        self._unclaimed += len(rows)
        return DueUnits(self._seen, self._now, self._following, rows)

    def claimed(self, claims: Sequence[Claim]) -> None:
        """Units that were given out have been claimed."""
        self._unclaimed -= len(claims)
        times = [int(claim.following) for claim in claims]
        if times:
            self._following = min(times if self._following is None else [self._following, *times])

    @property
    def pause(self) -> float:
        """Seconds until a unit is due; 0 where the store is to be asked."""
        left = 0.0 if self._rows else self._left()
        return max(0.001, left) if left > 0 else 0.0

    def forget(self) -> None:
        """Ask the store the next time."""
        self._rows.clear()
        self._is_known = False

    def _ask(self, leader: str, limit: int) -> None:
        self._seen, self._following, rows = self._claims.due(leader, limit)
        self._rows, self._leader, self._at = deque(rows), leader, time.monotonic()
        self._is_known, self._unclaimed = True, 0

    @property
    def _age(self) -> float:
        return time.monotonic() - self._at

    @property
    def _now(self) -> int:
        return self._seen + int(self._age * 1000)

    @property
    def _has_fresh_rows(self) -> bool:
        return bool(self._rows) and self._age <= LONGEST

    def _left(self) -> float:
        """For so many seconds the store need not be asked; it is not known what is due where that is not above 0."""
        if not self._is_known or self._rows or self._unclaimed:
            return 0.0
        until = self._longest
        if self._following is not None:
            until = (self._following - self._seen) / 1000
            if until > 0:  # else not all that was due has been read
                until = min(self._longest, max(until, self._shortest))
        return until - self._age
