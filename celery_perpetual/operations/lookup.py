"""Finds the unit that a caller names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import ContractError, UnknownTask, UnknownUnit
from celery_perpetual.hints import hint
from celery_perpetual.namespace import namespace_of
from celery_perpetual.operations.tenants import unit_of
from celery_perpetual.store.commands.units import is_unit
from celery_perpetual.tasks.discovery import load
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.tasks.unit import TaskUnit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.tasks.contract import TaskContract


def find(app: Celery, task: Any, tenant: Any = None, *, or_departed: bool = False) -> TaskUnit:
    """The unit of a task (its name, or the task itself) and a tenant (its name, or the tenant itself).

    Args:
        or_departed: take also a tenant that has gone, while the store remembers its unit.

    Raises:
        UnknownTask: no perpetual task has this name.
        UnknownUnit: the task has no such tenant, or has tenants and none was given.
    """
    contract = find_contract(app, task)
    try:
        return unit_of(app, contract, tenant)
    except UnknownUnit:
        if not or_departed or not contract.has_tenants or tenant is None:
            raise
        departed = TaskUnit(contract, *_name_and_value(tenant))
        if not is_unit(namespace_of(app).store, departed.name):
            raise
        return departed


def _name_and_value(tenant: Any) -> tuple[str, Any]:
    try:
        return tenant_of(tenant)
    except ContractError:
        return "", None


def find_contract(app: Celery, task: Any) -> TaskContract:
    """The contract of a task (its name, or the task itself).

    Raises:
        UnknownTask: no perpetual task has this name.
    """
    name = task if isinstance(task, str) else getattr(task, "name", None)
    if not isinstance(name, str):
        raise ContractError(f"task must be the name of a perpetual task or the task itself, got {task!r}")
    tasks = load(app).tasks
    if name not in tasks:
        why = "is registered, but has not both poll_every and next_batch" if name in app.tasks else "is not registered"
        raise UnknownTask(f"task {name} {why}{hint(name, tasks, 0.4)}")
    return tasks[name]
