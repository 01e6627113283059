"""How long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from typing import Any

from celery_perpetual.errors import ContractError
from celery_perpetual.settings import seconds

#: No poll follows sooner on one that has failed or asks to wait: without this floor code of the user's that answers 0
#: would be called without a pause.
SHORTEST_MS = 100
#: No wait is longer than a year, whatever a function of the user's answers.
LONGEST_MS = 365 * 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class BackOff:
    """A wait that grows with each failure in a row."""

    first_ms: int
    longest_ms: int
    """0: no bound."""
    multiplier: float = 2.0

    def delay(self, before: int) -> int:
        """Milliseconds to wait at most, after a failure that ``before`` others in a row have come before."""
        longest = self.longest_ms or LONGEST_MS
        try:
            delay = self.first_ms * self.multiplier**before
        except OverflowError:
            return longest
        return int(min(delay, longest))

    def spread(self, before: int) -> int:
        """The same with full jitter: any time up to that, so that what failed together does not come back together."""
        return round(random.uniform(0, self.delay(before)))  # nothing secret

    @property
    def curve(self) -> list[int]:
        """The delays up to the longest one, for scripts."""
        delays = [self.delay(0)]
        while delays[-1] < self.longest_ms:
            delays.append(self.delay(len(delays)))
        return delays


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same wait each time."""

    delay_ms: int

    def spread(self, before: int) -> int:
        """Milliseconds to wait."""
        del before
        return self.delay_ms


@dataclass(frozen=True, slots=True)
class Computed:
    """Waits that a function of the user's names: it gets the number of failures before, and answers seconds."""

    function: Callable[[int], Any]

    def spread(self, before: int) -> int:
        """Milliseconds to wait.

        Raises:
            ContractError: the answer is no duration.
        """
        what = f"ErrorRule: backoff function {getattr(self.function, '__qualname__', self.function)}"
        return min(round(seconds(what, self.function(before), error=ContractError) * 1000), LONGEST_MS)


Curve = BackOff | Fixed | Computed


def read_curve(what: str, seen: Any, error: type[Exception] = ContractError) -> Curve:
    """The waits that a user has written: seconds, (first, longest), (first, longest, multiplier), or a function.

    Raises:
        error: it is none of these, or has an impossible value.
    """
    if callable(seen):
        return Computed(seen)
    if isinstance(seen, int | float | timedelta):
        return Fixed(round(seconds(what, seen, least=0.001, error=error) * 1000))
    if not isinstance(seen, tuple | list) or not 2 <= len(seen) <= 3:
        raise error(
            f"{what} must be seconds, (first, longest), (first, longest, multiplier) or a function, got {seen!r}"
        )
    first = seconds(f"{what}: the first wait", seen[0], least=0.001, error=error)
    longest = seconds(f"{what}: the longest wait", seen[1], error=error)
    if longest and longest < first:
        raise error(f"{what}: the longest wait must be at least the first one ({first:g} s), got {longest:g}")
    multiplier = seen[2] if len(seen) == 3 else 2.0
    is_number = isinstance(multiplier, int | float) and not isinstance(multiplier, bool) and isfinite(multiplier)
    if not is_number or multiplier < 1:
        raise error(f"{what}: the multiplier must be a number of at least 1, got {multiplier!r}")
    return BackOff(round(first * 1000), round(longest * 1000), float(multiplier))
