"""Due units, read from the store some way ahead of the threads that are free for them.

Under load, one read serves several turns of the clock. Reading claims nothing. The claim gets the time of the read, and
refuses a unit that has changed since then (a poll by hand, a pause, another leader).
"""

from __future__ import annotations

import time
from collections import deque
from typing import NamedTuple

from celery_perpetual.polling.claims import Claims, Due

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
    """Reads what is due for one clock."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self._rows: deque[Due] = deque()
        self._leader = ""
        self._seen = 0
        self._at = 0.0

    def take(self, leader: str, room: int) -> DueUnits:
        """At most ``room`` units that are due; they are not given again until the store is asked again."""
        following = None
        if not self._rows or leader != self._leader or time.monotonic() - self._at > LONGEST:
            self._seen, following, rows = self._claims.due(leader, max(room, min(MOST_AHEAD, AHEAD * room)))
            self._rows, self._leader, self._at = deque(rows), leader, time.monotonic()
        rows = [self._rows.popleft() for _ in range(min(room, len(self._rows)))]
        return DueUnits(self._seen, self._seen + int((time.monotonic() - self._at) * 1000), following, rows)

    def forget(self) -> None:
        """Ask the store the next time."""
        self._rows.clear()
