"""The steps of the ladder that hold for one task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.tasks.options import PerpetualOptions

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.thresholds import Thresholds


def thresholds_of(app: Celery, task: str, usual: Thresholds) -> Thresholds:
    """The thresholds that hold for the items of a perpetual task.

    Args:
        task: its name.
        usual: those of the app, which hold where the task has none of its own.
    """
    options = getattr(app.tasks.get(task), "perpetual_options", None)
    given = options.starvation if isinstance(options, PerpetualOptions) else None
    return usual if given is None else usual.replaced(task, given, ValueError)
