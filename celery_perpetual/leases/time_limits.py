"""How long a process may wait for the store where the time limit of a task goes on meanwhile.

A process that waits has not begun the body of its task, or has it behind it. A store that stands still for longer than
a short limit would fail the task all the same, or have its process killed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.leases.execution import Execution

#: Asking for a lease may take this part of the limit, and a call after the body this part of what is left of it.
PART_BEFORE, PART_AFTER = 4, 2

#: The part that asking may take where the store is so far away that the usual one has not been enough.
MOST_BEFORE = 0.75


class KeptLimits(NamedTuple):
    """Which time limits of a task the pool of a worker keeps."""

    hard: bool = True
    soft: bool = True


#: Of Celery's pools that do not keep both, by their modules.
_KEPT = {
    "celery.concurrency.solo": KeptLimits(hard=False, soft=False),
    "celery.concurrency.thread": KeptLimits(hard=False, soft=False),
    "celery.concurrency.eventlet": KeptLimits(hard=False, soft=False),
    "celery.concurrency.gevent": KeptLimits(soft=False),
}


def limits_kept_by(pool_class: Any) -> KeptLimits:
    """The limits that a pool keeps; both where that is not known."""
    modules = [base.__module__ for base in getattr(pool_class, "__mro__", ())]
    return next((_KEPT[module] for module in modules if module in _KEPT), KeptLimits())


def limits_of(task: Any, timelimit: Any, kept: KeptLimits) -> tuple[float, ...]:
    """The time limits of a task in seconds, the first to come before the other. Raises nothing.

    Args:
        task: that runs.
        timelimit: of its message: its own hard and soft limit, which come before those of the task, or None.
        kept: which of them the pool keeps.
    """
    hard, soft = task.time_limit, task.soft_time_limit
    if not (timelimit or hard or soft):
        return ()
    try:
        if timelimit:
            hard, soft = timelimit[0] or hard, timelimit[1] or soft
        limits = (hard if kept.hard else None, soft if kept.soft else None)
        return tuple(sorted(limit for each in limits if each and (limit := float(each)) > 0))
    except Exception:  # what is no number is no limit: pools that have limits refuse it
        return ()


def time_to_ask(execution: Execution) -> float | None:
    """Seconds that asking for the lease may take, None where there is no limit."""
    if not execution.limits:
        return None
    return execution.limits[0] * (MOST_BEFORE if execution.is_patient else 1 / PART_BEFORE)


def time_to_end(execution: Execution) -> float | None:
    """Seconds that a call to the store may take after the body, None where no limit is still to come."""
    if not execution.limits:
        return None
    passed = time.monotonic() - execution.began
    # One that has passed does not end the task any more: the body has caught the soft limit.
    return next(((limit - passed) / PART_AFTER for limit in execution.limits if limit > passed), None)
