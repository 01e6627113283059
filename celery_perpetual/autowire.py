"""Wiring by configuration alone: name ``celery_perpetual.autowire`` in Celery's ``imports`` or ``include``.

It does what ``Perpetual(app)`` does, for every app of this process that names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import _state, signals

from celery_perpetual.app import Perpetual
from celery_perpetual.wiring import wire_running_beat

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery


def autowire(app: Celery) -> None:
    """Wire an app that is not wired yet."""
    if getattr(app, "perpetual", None) is None:
        Perpetual(app)
        wire_running_beat(app)


def autowire_all(only: Callable[[Celery], bool] = lambda _: True) -> None:
    """Wire the apps that exist."""
    for app in filter(only, _apps()):
        autowire(app)


def wired_apps() -> list[Celery]:
    """The apps of this process that are wired, by configuration or by ``Perpetual(app)``."""
    return [app for app in _apps() if getattr(app, "perpetual", None) is not None]


def _apps() -> Any:
    return _state._get_active_apps()  # type: ignore[attr-defined]  # noqa: SLF001  # as shared_task does


def _names_us(app: Any) -> bool:
    return app.configured and __name__ in (*(app.conf.imports or ()), *(app.conf.include or ()))


def _on_import_modules(sender: Celery, **_: Any) -> None:
    if _names_us(sender):
        autowire(sender)


# This module is imported once; apps that are made later announce themselves.
signals.import_modules.connect(_on_import_modules, weak=False, dispatch_uid=__name__)
autowire_all(_names_us)
