"""The passes that watch the ladder, one after the other, in whatever process: durable in the store.

A leader makes a pass every few seconds; where none leads, a cron job may make one every five minutes. Time between two
passes counts as watched when they follow each other as they are used to, and not when a deployment was stopped or
everything was paused in between. A gap that ended a series is usual
only when it recurs.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields

#: A gap between two passes of a series is at most so many times as long as the usual one, of which with each pass this
#: part remains: two cron jobs make passes in pairs.
IRREGULAR, REMAINS = 2, 0.75
#: The longest gap that passes may be used to, ms.
LONGEST_USUAL_MS = 3_600_000


@dataclass(frozen=True, slots=True)
class Series:
    """Passes without a gap that is too long. Times are ms of the store's clock."""

    since: int
    """When the first one was."""
    last: int
    """When the last one was."""
    usual: int = 0
    """The longest of the last gaps, without those that ended a series and did not recur."""
    candidate: int = 0
    """A gap that ended a series: if it recurs it is usual."""

    @classmethod
    def read(cls, text: str) -> Series | None:
        """From the store; what a later release notes besides is passed over."""
        if not text:
            return None
        found = json.loads(text)
        return cls(**{each.name: found[each.name] for each in fields(cls) if each.name in found})

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    def then(self, now: int, longest: int) -> Series:
        """With one more pass, or another series that begins with it.

        Args:
            now: the store's time. Before the last pass: the store's clock was set back, and that gap is not known.
            longest: a gap up to that (ms) never ends a series.
        """
        gap = now - self.last
        if gap < 0:
            return Series(since=min(self.since, now), last=now)
        noted, usual = min(gap, LONGEST_USUAL_MS), int(REMAINS * self.usual)
        if gap <= max(longest, IRREGULAR * self.usual):
            candidate = int(REMAINS * self.candidate)
            return Series(since=self.since, last=now, usual=max(noted, usual), candidate=candidate)
        recurs = gap <= IRREGULAR * self.candidate
        # The first gap that recurs is the first rhythm that there is; beside another one it may have been two stops.
        since = self.since if recurs and not self.usual else now
        return Series(since=since, last=now, usual=noted if recurs else usual, candidate=noted)
