"""Finds the class that stands between our scheduler and a base scheduler, and puts the three together."""

from __future__ import annotations

from typing import Any, TypeVar

from celery.beat import PersistentScheduler, Scheduler
from celery.utils.imports import symbol_by_name

from celery_perpetual.beat.bases.base import Base
from celery_perpetual.beat.bases.celerys import CelerysBase
from celery_perpetual.errors import SettingsError
from celery_perpetual.settings import Settings

S = TypeVar("S", bound=Base)

#: The kinds of base schedulers that other packages bring; a subclass of one is of its kind.
KINDS = {
    "redbeat.schedulers.RedBeatScheduler": "celery_perpetual.beat.bases.redbeat:RedBeatBase",
}


#: Which extra installs what a base needs.
EXTRAS = {"redbeat": "redbeat"}


def base_of(settings: Settings, wanted: str | None) -> type[Scheduler]:
    """The base scheduler: ``wanted`` (``module:Class``), or what the settings name, if that is of its kind.

    Raises:
        SettingsError: it is not installed.
    """
    configured: type[Scheduler] = settings.base
    if wanted is None:
        return configured
    try:
        named: type[Scheduler] = symbol_by_name(wanted)
    except ImportError as error:
        extra = EXTRAS[wanted.partition(".")[0]]
        raise SettingsError(
            f"the scheduler {wanted} cannot be imported ({error}); pip install 'celery-perpetual[{extra}]'"
        ) from error
    return configured if issubclass(configured, named) else named


def over(scheduler: type[S], base: type[Scheduler]) -> type[S]:
    """``scheduler`` over ``base``; as it is where a program has put them together itself."""
    kind = _kind_of(base)
    if issubclass(scheduler, base) and issubclass(scheduler, kind):
        return scheduler
    bases = (scheduler, kind) if issubclass(kind, base) else (scheduler, kind, base)
    made: Any = type(scheduler.__name__, bases, {"__module__": scheduler.__module__})
    return made  # type: ignore[no-any-return]


def _kind_of(base: type[Scheduler]) -> type[Base]:
    if base is Scheduler or issubclass(base, PersistentScheduler):
        return CelerysBase
    for cls in base.__mro__:
        if (kind := KINDS.get(f"{cls.__module__}.{cls.__qualname__}")) is not None:
            return symbol_by_name(kind)  # type: ignore[no-any-return]
    return Base
