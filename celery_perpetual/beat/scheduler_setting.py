"""Which beat scheduler an app is configured with."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from celery.utils.imports import load_extension_class_names, symbol_by_name

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import Scheduler


def other_scheduler(app: Celery, own: type[Scheduler]) -> str | None:
    """What is wrong with ``beat_scheduler``, or None where it names ``own`` or a subclass."""
    name: Any = app.conf.beat_scheduler
    classes: Any = load_extension_class_names("celery.beat_schedulers")
    try:
        found = symbol_by_name(name, aliases=dict(classes))
    except (ImportError, AttributeError, ValueError) as error:
        return f"beat_scheduler {name!r} cannot be imported ({error})"
    if inspect.isclass(found) and issubclass(found, own):
        return None
    return f"beat_scheduler is {name!r}, which does not poll perpetual tasks"
