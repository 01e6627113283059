"""Which beat scheduler an app is configured with."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.imports import load_extension_class_names, symbol_by_name

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import Scheduler


#: Our scheduler over the schedulers of other packages, as Django's settings should name it.
OURS = {
    "django_celery_beat.schedulers": "celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler",
    "redbeat.schedulers": "celery_perpetual.beat.perpetual_redbeat:PerpetualRedBeatScheduler",
}


class OtherScheduler(NamedTuple):
    """A ``beat_scheduler`` that does not poll."""

    problem: str
    wanted: str
    """What to set instead."""

    def __str__(self) -> str:
        return f"{self.problem}; set beat_scheduler = {self.wanted!r}"


def other_scheduler(app: Celery, own: type[Scheduler]) -> OtherScheduler | None:
    """What is wrong with ``beat_scheduler`` and what to do, or None where it names ``own`` or a subclass."""
    name: Any = app.conf.beat_scheduler
    classes: Any = load_extension_class_names("celery.beat_schedulers")
    try:
        found = symbol_by_name(name, aliases=dict(classes))
    except (ImportError, AttributeError, ValueError) as error:
        return OtherScheduler(f"beat_scheduler {name!r} cannot be imported ({error})", "perpetual")
    if inspect.isclass(found) and issubclass(found, own):
        return None
    modules = [cls.__module__ for cls in inspect.getmro(found)] if inspect.isclass(found) else []
    ours = next((OURS[module] for module in modules if module in OURS), "perpetual")
    return OtherScheduler(f"beat_scheduler is {name!r}, which does not poll perpetual tasks", ours)
