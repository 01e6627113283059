"""Named points at which a test can end the process with SIGKILL.

A crash between two steps cannot be arranged from outside the process, so the steps name themselves:
``PERPETUAL_CRASH_AT=poll.committed`` kills the process the first time it gets there,
``PERPETUAL_CRASH_AT=poll.published:3`` the third time. Without the variable a point costs one comparison.
"""

from __future__ import annotations

import os
import signal
from itertools import count

_point, _, _nth = os.environ.get("PERPETUAL_CRASH_AT", "").partition(":")
_visits = count(1)


def reach(point: str) -> None:
    """Kill this process if ``point`` is the one that PERPETUAL_CRASH_AT names."""
    if point == _point and next(_visits) == int(_nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
