"""Wait for a fact instead of sleeping for luck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LONGEST_INTERVAL = 0.1


def wait_until(predicate: Callable[[], T], what: str, timeout: float = 30.0, interval: float = 0.02) -> T:
    """Call `predicate` until it returns something true, and return that.

    It is called every `interval` seconds at first, and less often with time.

    Raises:
        AssertionError: It did not within `timeout` seconds; the text names `what` and the last answer.
    """
    begun = time.monotonic()
    while not (answer := predicate()):
        waited = time.monotonic() - begun
        if waited > timeout:
            raise AssertionError(f"not within {timeout:g} s: {what}; last answer: {answer!r}")
        # A condition that takes long may be noticed a little later; the processes waited for need the machine more.
        time.sleep(max(interval, min(LONGEST_INTERVAL, interval * (1 + waited))))
    return answer
