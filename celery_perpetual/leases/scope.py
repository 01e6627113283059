"""Which ends concern us, and which of them are announced."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.tasks.task import HEADER, PerpetualTask

if TYPE_CHECKING:
    from celery import Celery

#: Tasks that are machinery, not work.
BUILT_IN = ("celery.", "celery_perpetual.")


def is_ours(app: Celery, task: Any, task_id: Any, headers: Any = None) -> bool:
    """Whether an end concerns us: an id of our form, our header, a perpetual task, or any task with ``all``."""
    if not isinstance(task_id, str):
        return False
    if parse_item_id(task_id) is not None or isinstance(task, PerpetualTask) or (headers and headers.get(HEADER)):
        return True
    perpetual: Any = getattr(app, "perpetual", None)
    name = getattr(task, "name", None) or ""
    return perpetual is not None and perpetual.settings.completions == "all" and not name.startswith(BUILT_IN)


def standing(app: Celery, task: Any, task_id: Any, headers: Any = None) -> bool | None:
    """What the end of a task means to us.

    Returns:
        None: nothing. False: it may hold a lease, which is given back in silence. True: it is one of ours.
    """
    if is_ours(app, task, task_id, headers):
        return True
    perpetual: Any = getattr(app, "perpetual", None)
    if perpetual is None or task is None or not isinstance(task_id, str) or getattr(task, "lease", None) is False:
        return None
    return False if perpetual.settings.leases == "all" and not task.name.startswith(BUILT_IN) else None


def announces(task: Any) -> bool:
    """Whether the task lets its ends be announced."""
    options = getattr(task, "perpetual_options", None)
    return bool(getattr(options, "completions", True))
