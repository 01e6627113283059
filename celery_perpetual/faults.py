"""Named points at which a test can kill or freeze the process.

A crash between two steps cannot be arranged from outside the process, so the steps name themselves:
``PERPETUAL_CRASH_AT=poll.committed`` kills the process with SIGKILL the first time it gets there,
``PERPETUAL_CRASH_AT=poll.published:3`` the third time. ``PERPETUAL_FREEZE_AT`` stops it with SIGSTOP instead, until a
SIGCONT. Without the variables a point costs two comparisons.
"""

from __future__ import annotations

import os
import signal
from itertools import count


class _Fault:
    """A signal for the n-th visit of a point."""

    def __init__(self, variable: str, number: signal.Signals) -> None:
        self._variable, self._number = variable, number
        self.read()

    def read(self) -> None:
        self.point, _, nth = os.environ.get(self._variable, "").partition(":")
        self._nth, self._visits = int(nth or 1), count(1)

    def visit(self) -> None:
        if next(self._visits) == self._nth:
            os.kill(os.getpid(), self._number)


_crash = _Fault("PERPETUAL_CRASH_AT", signal.SIGKILL)
_freeze = _Fault("PERPETUAL_FREEZE_AT", signal.SIGSTOP)


def read_environment() -> None:
    """Take the points from the environment again, where a fork gets another one than there was at the import."""
    for fault in (_crash, _freeze):
        fault.read()


def reach(point: str) -> None:
    """Kill or stop this process if ``point`` is the one that PERPETUAL_CRASH_AT or PERPETUAL_FREEZE_AT names."""
    if point == _crash.point:
        _crash.visit()
    if point == _freeze.point:
        _freeze.visit()
