"""How long a process may wait for the store where the time limit of a task goes on meanwhile.

A process that waits has not begun the body of its task, or has it behind it. A store that stands still for longer than
a short limit would fail the task all the same, or have its process killed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery_perpetual.times import steady

if TYPE_CHECKING:
    from celery_perpetual.leases.execution import Execution

#: Asking for a lease may take this part of the limit, and a call after the body this part of what is left of it.
PART_BEFORE, PART_AFTER = 4, 2


def first_limit(task: Any, timelimit: Any) -> float | None:
    """Seconds until the first time limit of a task, None without one. Raises nothing.

    Args:
        task: that runs.
        timelimit: of its message: its own hard and soft limit, which come before those of the task, or None.
    """
    hard, soft = task.time_limit, task.soft_time_limit
    if not (timelimit or hard or soft):
        return None
    try:
        if timelimit:
            hard, soft = timelimit[0] or hard, timelimit[1] or soft
            if not (hard or soft):  # Celery writes [None, None] into every message
                return None
        return min((limit for each in (hard, soft) if each and (limit := float(each)) > 0), default=None)
    except Exception:  # what is no number is no limit: pools that have limits refuse it
        return None


def time_to_ask(execution: Execution) -> float | None:
    """Seconds that asking for the lease may take, None where there is no limit."""
    return None if execution.limit is None else execution.limit / PART_BEFORE


def time_to_end(execution: Execution) -> float | None:
    """Seconds that a call to the store may take after the body, None where there is no limit."""
    if execution.limit is None:
        return None
    # Where a lease was asked for, the limit began just before that.
    passed = steady() - execution.granted_at if execution.granted_at else time.monotonic() - execution.since
    return max(0.0, execution.limit - passed) / PART_AFTER
