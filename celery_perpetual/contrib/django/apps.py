"""The Django app."""

from __future__ import annotations

from typing import Any

from celery import signals
from django.apps import AppConfig

from celery_perpetual.autowire import autowire, autowire_all


class CeleryPerpetualConfig(AppConfig):  # type: ignore[misc]  # Django ships no types
    """Wires every Celery app of the process; a Django project has one."""

    name = "celery_perpetual.contrib.django"
    label = "celery_perpetual"
    verbose_name = "Celery Perpetual"

    def ready(self) -> None:
        """Wire the apps that exist, and those that are made later when they import their modules."""
        from celery_perpetual.contrib.django import checks  # noqa: F401  # it registers itself

        signals.import_modules.connect(_on_import_modules, weak=False, dispatch_uid=__name__)
        autowire_all()


def _on_import_modules(sender: Any, **_: Any) -> None:
    autowire(sender)
