"""Which beat scheduler an app is configured with."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from celery.utils.imports import load_extension_class_names, symbol_by_name

if TYPE_CHECKING:
    from celery import Celery
    from celery.beat import Scheduler


#: Our scheduler over the schedulers of other packages, as Django's settings should name it.
OURS = {
    "django_celery_beat.schedulers": "celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler",
    "redbeat.schedulers": "celery_perpetual.beat.perpetual_redbeat:PerpetualRedBeatScheduler",
}


def other_scheduler(app: Celery, own: type[Scheduler]) -> str | None:
    """What is wrong with ``beat_scheduler`` and what to do, or None where it names ``own`` or a subclass."""
    name: Any = app.conf.beat_scheduler
    classes: Any = load_extension_class_names("celery.beat_schedulers")
    try:
        found = symbol_by_name(name, aliases=dict(classes))
    except (ImportError, AttributeError, ValueError) as error:
        return f"beat_scheduler {name!r} cannot be imported ({error}); set beat_scheduler = 'perpetual'"
    if inspect.isclass(found) and issubclass(found, own):
        return None
    modules = [cls.__module__ for cls in inspect.getmro(found)] if inspect.isclass(found) else []
    ours = next((OURS[module] for module in modules if module in OURS), "perpetual")
    return f"beat_scheduler is {name!r}, which does not poll perpetual tasks; set beat_scheduler = {ours!r}"
