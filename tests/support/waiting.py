"""Wait for a fact instead of sleeping for luck."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], what: str, timeout: float = 30.0, interval: float = 0.02) -> T:
    """Call `predicate` until it returns something true, and return that.

    Raises:
        AssertionError: It did not within `timeout` seconds; the text names `what` and the last answer.
    """
    deadline = time.monotonic() + timeout
    while not (answer := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what}; last answer: {answer!r}")
        time.sleep(interval)
    return answer
