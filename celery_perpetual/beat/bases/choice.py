"""Finds the class that stands between our scheduler and a base scheduler, and puts the three together."""

from __future__ import annotations

from typing import Any, TypeVar

from celery.beat import PersistentScheduler, Scheduler
from celery.utils.imports import symbol_by_name

from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.bases.celerys import CelerysBase

S = TypeVar("S", bound=Base)

#: The kinds of base schedulers that other packages bring; a subclass of one is of its kind.
KINDS = {
    "django_celery_beat.schedulers.DatabaseScheduler": "celery_perpetual.beat.bases.database:DatabaseBase",
    "redbeat.schedulers.RedBeatScheduler": "celery_perpetual.beat.bases.redbeat:RedBeatBase",
}


def over(scheduler: type[S], configured: type[Scheduler]) -> type[S]:
    """``scheduler`` over the configured base; one that has a base by itself keeps it, or gets a subclass of it."""
    own = base_of(scheduler)
    base = configured if issubclass(configured, own) else own
    kind = _kind_of(base)
    if issubclass(scheduler, base) and issubclass(scheduler, kind):
        return scheduler
    bases = (scheduler, kind) if issubclass(kind, base) else (scheduler, kind, base)
    made: Any = type(scheduler.__name__, bases, {"__module__": scheduler.__module__})
    return made  # type: ignore[no-any-return]


def base_of(scheduler: type[Scheduler]) -> type[Scheduler]:
    """The base scheduler behind a class of ours."""
    return next(
        (cls for cls in scheduler.__mro__ if not issubclass(cls, Base) and issubclass(cls, Scheduler)), Scheduler
    )


def _kind_of(base: type[Scheduler]) -> type[Base]:
    if base is Scheduler or issubclass(base, PersistentScheduler):
        return CelerysBase
    for cls in base.__mro__:
        if (kind := KINDS.get(f"{cls.__module__}.{cls.__qualname__}")) is not None:
            return symbol_by_name(kind)  # type: ignore[no-any-return]
    return Base
