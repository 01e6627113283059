"""Checks of the settings, as ``manage.py check`` and ``runserver`` run them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.checks import Error, register

from celery_perpetual.autowire import wired_apps
from celery_perpetual.beat.admin_name import fails_in_admin
from celery_perpetual.errors import SettingsError
from celery_perpetual.settings import Settings


@register()  # type: ignore[untyped-decorator]  # Django ships no types
def check_beat_scheduler(**_: Any) -> list[Error]:
    """``celery_perpetual.E001``: the admin of django-celery-beat cannot import the name of the scheduler."""
    reason = fails_in_admin()
    return [] if reason is None else [Error(reason, id="celery_perpetual.E001")]


@register()  # type: ignore[untyped-decorator]  # Django ships no types
def check_settings(**_: Any) -> list[Error]:
    """``celery_perpetual.E002``: a ``CELERY_PERPETUAL_*`` setting is unknown, or has an impossible value."""
    return list(_wrong_settings())


def _wrong_settings() -> Iterator[Error]:
    for app in wired_apps():
        try:
            Settings.from_app(app)
        except SettingsError as error:
            hint = "Beat and workers refuse to start with it."
            yield Error(str(error), hint=hint, obj=app.main, id="celery_perpetual.E002")
