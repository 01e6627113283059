"""Named points at which a test can end the process with SIGKILL.

A crash between two steps cannot be arranged from outside the process, so the steps name themselves:
``PERPETUAL_CRASH_AT=poll.committed`` kills the process the first time it gets there,
``PERPETUAL_CRASH_AT=poll.published:3`` the third time. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from itertools import count

_point, _nth, _visits = "", 1, count(1)


def read_environment() -> None:
    """Take the point from the environment: at the import, and where a fork gets another environment."""
    global _point, _nth, _visits
    _point, _, nth = os.environ.get("PERPETUAL_CRASH_AT", "").partition(":")
    _nth, _visits = int(nth or 1), count(1)


def reach(point: str) -> None:
    """Kill this process if ``point`` is the one that PERPETUAL_CRASH_AT names."""
    if point == _point and next(_visits) == _nth:
        os.kill(os.getpid(), signal.SIGKILL)


read_environment()
