"""Which ends concern us, and which of them are announced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Celery

from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.tasks.task import HEADER, PerpetualTask

#: Tasks that are machinery, not work.
BUILT_IN = ("celery.", "celery_perpetual.")


def wired(app: Any) -> Any:
    """The ``Perpetual`` of an app; None for an app without, one whose settings name no store, and a test's stand-in."""
    perpetual = getattr(app, "perpetual", None) if isinstance(app, Celery) else None
    return perpetual if perpetual is not None and perpetual.has_store else None


def is_ours(app: Celery, task: Any, task_id: Any, headers: Any = None) -> bool:
    """Whether an end concerns us: an id of our form, our header, a perpetual task, or any task with ``all``."""
    perpetual = wired(app)
    if perpetual is None or not isinstance(task_id, str):
        return False
    if parse_item_id(task_id) is not None or isinstance(task, PerpetualTask):
        return True
    if isinstance(headers, Mapping) and headers.get(HEADER):
        return True
    name = getattr(task, "name", None) or ""
    return perpetual.settings.completions == "all" and not name.startswith(BUILT_IN)


def standing(app: Celery, task: Any, task_id: Any, headers: Any = None) -> bool | None:
    """What the end of a task means to us.

    Returns:
        None: nothing. False: it may hold a lease, which is given back in silence. True: it is one of ours.
    """
    if is_ours(app, task, task_id, headers):
        return True
    perpetual = wired(app)
    if perpetual is None or task is None or not isinstance(task_id, str) or getattr(task, "lease", None) is False:
        return None
    return False if perpetual.settings.leases == "all" and not task.name.startswith(BUILT_IN) else None


def announces(task: Any) -> bool:
    """Whether the task lets its ends be announced."""
    options = getattr(task, "perpetual_options", None)
    return bool(getattr(options, "completions", True))
