"""What follows from a failure: of which kind it is, and how long to wait before the next try.

This is the only place that decides it. So far there is one kind.
"""

from __future__ import annotations

from dataclasses import dataclass

DEGRADED = "degraded"
"""Everything of which nothing better is known: it is reported and tried again."""


@dataclass(frozen=True, slots=True)
class BackOff:
    """A wait that doubles with each failure in a row."""

    first_ms: int
    longest_ms: int

    def delay(self, before: int) -> int:
        """Milliseconds to wait after a failure that ``before`` others in a row have come before."""
        return int(min(self.first_ms * 2 ** min(before, 32), self.longest_ms))

    @property
    def curve(self) -> list[int]:
        """The delays up to the longest one, for scripts."""
        delays = [self.delay(0)]
        while delays[-1] < self.longest_ms:
            delays.append(self.delay(len(delays)))
        return delays


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of a poll, classified."""

    kind: str
    delay_ms: int
    """How long the unit waits before its next poll."""


#: Of polls that raise, run out of time, or end with their process.
POLLS = BackOff(first_ms=30_000, longest_ms=300_000)


def classify(error: BaseException | None, before: int) -> Failure:
    """What follows from a failed poll.

    Args:
        error: what was raised, or None where nothing was: the poll ran out of time.
        before: failed polls of this unit in a row before this one.
    """
    del error  # there is one kind so far
    return Failure(DEGRADED, POLLS.delay(before))
