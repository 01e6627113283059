"""Classes of perpetual tasks that no app has registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from celery import Task

if TYPE_CHECKING:
    from celery import Celery


def unregistered(app: Celery) -> list[str]:
    """Dotted names of the classes that would be perpetual tasks of this app, and are not registered.

    Celery registers no class by itself. A class counts where a module of the app's tasks holds it under its own name,
    it can run, and neither it nor a class that is made from it is the class of a task of any app.
    """
    loader: Any = app.loader
    modules = {app.main, *loader.task_modules, *(task.__module__ for task in app.tasks.values())}
    return sorted(
        f"{each.__module__}.{each.__qualname__}"
        for each in _subclasses(Task)
        if each.__module__ in modules and _is_held(each) and _could_run(each) and not _is_registered(each)
    )


def _subclasses(of: Any) -> Iterator[Any]:
    for each in of.__subclasses__():
        yield each
        yield from _subclasses(each)


def _is_held(task: Any) -> bool:
    return getattr(sys.modules.get(task.__module__), task.__qualname__, None) is task


def _could_run(task: Any) -> bool:
    has_both = None not in (getattr(task, "poll_every", None), getattr(task, "next_batch", None))
    return has_both and task.run is not Task.run and "abstract" not in vars(task)


def _is_registered(task: Any) -> bool:
    """Celery binds the class of each task that it registers."""
    return any(vars(each).get("__bound__", False) for each in (task, *_subclasses(task)))
