"""Which beat scheduler an app is configured with."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.beat import Scheduler
from celery.utils.imports import load_extension_class_names, symbol_by_name

from celery_perpetual.errors import described

if TYPE_CHECKING:
    from celery import Celery


#: Our scheduler over the schedulers of other packages: its name for ``celery beat -S``, and as a setting has it.
OURS = {
    "django_celery_beat.schedulers": (
        "perpetual_django",
        "celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler",
    ),
    "redbeat.schedulers": (
        "perpetual_redbeat",
        "celery_perpetual.beat.perpetual_redbeat:PerpetualRedBeatScheduler",
    ),
}


class OtherScheduler(NamedTuple):
    """A ``beat_scheduler`` that does not poll."""

    problem: str
    cure: str
    """The setting with which beat polls and keeps the entries that it has."""

    def __str__(self) -> str:
        return f"{self.problem}; set {self.cure}"


def other_scheduler(app: Celery, own: type[Scheduler]) -> OtherScheduler | None:
    """The fault of ``beat_scheduler`` and its mend, or None where it names ``own`` or a subclass."""
    name: Any = app.conf.beat_scheduler
    classes: Any = load_extension_class_names("celery.beat_schedulers")
    try:
        found = symbol_by_name(name, aliases=dict(classes))
    except Exception as error:  # whatever the import of a module raises
        problem = f"beat_scheduler {name!r} cannot be imported ({described(error)})"
        return OtherScheduler(problem, "beat_scheduler = 'perpetual'")
    if inspect.isclass(found) and issubclass(found, own):
        return None
    _, ours, base = _instead_of(found)
    cure = f"beat_scheduler = {ours!r}" + (f" and perpetual_base_scheduler = {base!r}" if base else "")
    return OtherScheduler(f"beat_scheduler is {name!r}, which does not poll perpetual tasks", cure)


def start_instead_of(scheduler: object) -> str:
    """How to start a beat that runs this scheduler, so that it polls and keeps the entries that it has."""
    option, _, base = _instead_of(scheduler)
    return f"start it with -S {option}" + (f" and perpetual_base_scheduler = {base!r}" if base else "")


def _instead_of(scheduler: object) -> tuple[str, str, str | None]:
    """Our scheduler for ``-S``, as a setting has it, and the base scheduler that has to be set with it."""
    if not inspect.isclass(scheduler):
        return "perpetual", "perpetual", None
    for cls in inspect.getmro(scheduler):
        if cls.__module__ in OURS:
            return *OURS[cls.__module__], None
    if scheduler.__module__ == Scheduler.__module__:
        return "perpetual", "perpetual", None
    return "perpetual", "perpetual", f"{scheduler.__module__}:{scheduler.__qualname__}"
