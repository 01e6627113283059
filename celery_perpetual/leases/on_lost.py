"""How often a task may be lost, and what becomes of it then."""

from __future__ import annotations

from typing import Any

from celery_perpetual.tasks.contract import ON_LOST
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.tasks.task import ROUTINE_HEADER, PerpetualTask

#: Of a task that says nothing.
DEFAULTS = PerpetualOptions()


def when_lost(task: Any) -> tuple[int, str]:
    """How often a task is recovered, and what happens when it is lost; an ordinary task has a perpetual one's defaults.

    Returns:
        ``max_recoveries`` and ``on_lost``.
    """
    options = getattr(task, "perpetual_options", None) or DEFAULTS
    on_lost = getattr(task, "on_lost", None)
    # An ordinary task may use this name for anything.
    return options.max_recoveries, on_lost if on_lost in ON_LOST else PerpetualTask.on_lost


def when_run_lost(task: Any, request: Any) -> tuple[int, str]:
    """The same for one execution: a lost run of a routine ends as lost, and the routine decides how it goes on."""
    most, on_lost = when_lost(task)
    return most, "fail" if request.get(ROUTINE_HEADER) else on_lost
