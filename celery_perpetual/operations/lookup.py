"""Finds the unit that a caller names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import ContractError, UnknownTask, UnknownUnit
from celery_perpetual.hints import nearest
from celery_perpetual.tasks.discovery import load
from celery_perpetual.tasks.unit import TaskUnit

if TYPE_CHECKING:
    from celery import Celery


def find(app: Celery, task: Any, tenant: Any = None) -> TaskUnit:
    """The unit of a task (its name, or the task itself) and a tenant.

    Raises:
        UnknownTask: no perpetual task has this name.
        UnknownUnit: the task has no such tenant.
    """
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise ContractError(f"task must be the name of a perpetual task or the task itself, got {task!r}")
    tasks = load(app).tasks
    if name not in tasks:
        near = nearest(name, tasks, 0.4)
        hint = f"did you mean {near}?" if near else f"known are: {', '.join(tasks) or 'none'}"
        why = "is registered, but has not both poll_every and next_batch" if name in app.tasks else "is not registered"
        raise UnknownTask(f"task {name} {why}; {hint}")
    if tenant is not None:
        raise UnknownUnit(f"task {name} has no tenants, got tenant {tenant!r}")
    return TaskUnit(tasks[name])
