"""The interest in a task and its messages."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Flag, auto
from typing import TYPE_CHECKING, Any

from celery import Celery, Task

from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.tasks.task import HEADER, PerpetualTask

if TYPE_CHECKING:
    from celery_perpetual.settings import Settings

#: Tasks that are machinery, not work.
BUILT_IN = ("celery.", "celery_perpetual.")


class Interest(Flag):
    """The services that a task gets from us; none for a task of others."""

    NONE = 0
    LEASE = auto()
    """It needs a lease to run, which its end gives back."""
    END = auto()
    """Its end is stored: its item is closed, and Celery's result is there even where Celery stores none."""
    ANNOUNCE = auto()
    """Its end is published."""


#: By whether it needs a lease, whether its end is stored, and whether that is announced: every message and every task
#: asks, and operations of flags are slow.
_FOUND = {
    (lease, end, announced): (
        (Interest.LEASE if lease else Interest.NONE)
        | (Interest.END if end else Interest.NONE)
        | (Interest.ANNOUNCE if announced else Interest.NONE)
    )
    for lease in (False, True)
    for end in (False, True)
    for announced in (False, True)
}


#: The same by the numbers that a request brings to a pool process.
INTERESTS = {interest.value: interest for interest in _FOUND.values()}


def wired(app: Any) -> Any:
    """The ``Perpetual`` of an app; None for an app without, one whose settings name no store, and a test's stand-in."""
    perpetual = getattr(app, "perpetual", None) if isinstance(app, Celery) else None
    return perpetual if perpetual is not None and perpetual.has_store else None


def interest_in(app: Any, task: Any, task_id: Any, headers: Any = None) -> Interest:
    """The interest in a task by the settings of its app; none if that is not wired."""
    perpetual = wired(app)
    return Interest.NONE if perpetual is None else interest_by(perpetual.settings, task, task_id, headers)


def interest_by(settings: Settings, task: Any, task_id: Any, headers: Any = None) -> Interest:
    """The interest in a task.

    Args:
        settings: of its app: which leases and completions are in use.
        task: the registered task, None if there is none; a stand-in of a test is of no interest.
        task_id: its id; one that is not text is of no interest.
        headers: of its message or request; anything else than a mapping says nothing.
    """
    if not isinstance(task_id, str) or not (task is None or isinstance(task, Task)):
        return Interest.NONE
    is_perpetual = is_ours(task, task_id, headers)
    is_work = is_perpetual or not str(getattr(task, "name", "")).startswith(BUILT_IN)
    has_lease = needs_lease(task) and (is_perpetual or (settings.leases == "all" and is_work))
    has_end = is_perpetual or (settings.completions == "all" and is_work)
    return _FOUND[has_lease, has_end, has_end and announces(task)]


def is_ours(task: Any, task_id: str, headers: Any) -> bool:
    """Whether a message is of an item or a perpetual task, or says so; see :func:`interest_by` for the arguments."""
    return (
        parse_item_id(task_id) is not None
        or isinstance(task, PerpetualTask)
        or bool(isinstance(headers, Mapping) and headers.get(HEADER))
    )


def needs_lease(task: Any) -> bool:
    """Whether a task lets itself be guarded by a lease; one that is not registered cannot."""
    return task is not None and getattr(task, "lease", None) is not False


def has_own_strategy(task: Any) -> bool:
    """Whether a task decides itself what becomes of its messages; then Celery's tracer may never run it."""
    return getattr(type(task), "Strategy", Task.Strategy) != Task.Strategy or "Strategy" in getattr(
        task, "__dict__", ()
    )


def announces(task: Any) -> bool:
    """Whether the task lets its ends be announced."""
    options = getattr(task, "perpetual_options", None)
    return bool(getattr(options, "completions", True))
