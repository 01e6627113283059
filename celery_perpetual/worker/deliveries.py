"""The deliveries that this worker has: what its consumer would still run or acknowledge, and what its pool runs.

Celery's own tables are by task id, so a second delivery of a task would hide the first one, and they forget by garbage
collection. Here a delivery is entered when it is received. It leaves

* when it is acknowledged, does not run any more, and its end is stored;
* when it is cancelled;
* when its connection is lost before it began: Celery forgets it then, and the broker has it.
"""

from __future__ import annotations

import os
from typing import Any

from celery.worker import state

from celery_perpetual.completions.waiting_ends import NONE_WAITING, SharedEnds, WaitingTasks

_received: dict[str, Any] = {}
"""By nonce."""

_may_run: dict[str, frozenset[int]] = {}
"""Task id -> pids of the pool: these were on their way to a child when Celery forgot them, and may run there unseen."""


def enter(nonce: str, request: Any) -> None:
    """It was received."""
    _received[nonce] = request


def remove(nonce: str) -> None:
    """The worker has nothing more to do with it."""
    _received.pop(nonce, None)


def forget_all() -> None:
    """The worker has stopped."""
    _received.clear()
    _may_run.clear()


def is_here(nonce: str) -> bool:
    """Whether the worker still has a delivery."""
    return nonce in _received


def waiting(ends: SharedEnds, pool: Any) -> WaitingTasks:
    """The tasks of this worker whose ends wait."""
    return ends.read(_pids(pool) | {os.getpid()})


def at_hand(waiting: WaitingTasks = NONE_WAITING) -> list[Any]:
    """Requests that this worker has received and not acknowledged, those that it runs, and those whose ends wait."""
    active = {id(each): each for each in list(state.active_requests) if getattr(each, "perpetual_tag", "")}
    for nonce, request in list(_received.items()):  # in one step: the main thread adds some meanwhile
        if request.acknowledged and id(request) not in active and not request.is_held and request.id not in waiting:
            _received.pop(nonce, None)
        else:
            active[id(request)] = request
    return list(active.values())


def connection_lost(pool: Any, waiting: WaitingTasks = NONE_WAITING) -> None:
    """Celery has forgotten what did not run when the connection was lost.

    Args:
        pool: of the worker.
        waiting: tasks whose ends wait.
    """
    pids = _pids(pool)
    for nonce, request in list(_received.items()):
        is_kept = request.acknowledged and (request.is_held or request.id in waiting)
        if request not in state.active_requests and not is_kept:
            _received.pop(nonce, None)
            # One that is acknowledged has ended, or its child has died and it is back in its queue.
            if pids and not request.is_held and not request.acknowledged:
                _may_run[request.id] = pids


def unseen(held: set[str], pool: Any) -> set[str]:
    """Those of the tasks with a lease that may run in a child without Celery's knowing."""
    pids = _pids(pool)
    for task_id, then in list(_may_run.items()):
        if task_id not in held or not then & pids:
            del _may_run[task_id]
    return set(_may_run)


def _pids(pool: Any) -> frozenset[int]:
    """Of the children, where there are some."""
    processes = getattr(getattr(pool, "_pool", None), "_pool", None)
    return frozenset(each.pid for each in processes) if isinstance(processes, list) else frozenset()
