"""Included modules: perpetual tasks that share the ``tenants`` of the Python module that they are written in.

An app is a list of modules then: each brings its tasks and the tenants over which they fan out.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery import signals

from celery_perpetual.errors import ContractError

if TYPE_CHECKING:
    from celery import Celery, Task

#: Names of the modules of each app, in the order of their inclusion.
_included: WeakKeyDictionary[Celery, dict[str, None]] = WeakKeyDictionary()


def include(app: Celery, module: str | ModuleType) -> None:
    """Add a module to an app; a name is imported when Celery imports the app's modules.

    Raises:
        ContractError: it is neither a module nor the name of one.
    """
    name = module.__name__ if isinstance(module, ModuleType) else module
    if not isinstance(name, str) or not name:
        raise ContractError(f"include: give a module or the dotted name of one, got {module!r}")
    _included.setdefault(app, {})[name] = None
    if isinstance(module, ModuleType):
        return

    def bring(**_: Any) -> None:
        import_module(name)

    signals.import_modules.connect(bring, sender=app, weak=False, dispatch_uid=f"celery_perpetual.include.{name}")


def included_in(app: Celery) -> list[str]:
    """Names of the included modules of an app."""
    return list(_included.get(app, ()))


def belongs_to(task: Task[Any, Any], module: str) -> bool:
    """Whether a task is written in a module, or in one that lies below it."""
    own = type(task).__module__
    return own == module or own.startswith(f"{module}.")


def given_by_module(task: Task[Any, Any], name: str) -> Any:
    """The value of the nearest included module, for a task that gives none itself; None without one."""
    names = sorted((each for each in included_in(task.app) if belongs_to(task, each)), key=len, reverse=True)
    for each in names:
        found = getattr(sys.modules.get(each), name, None)
        if found is not None and not isinstance(found, ModuleType):  # a file of that name is no value
            return found
    return None
