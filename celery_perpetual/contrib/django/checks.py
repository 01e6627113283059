"""Checks of the settings, as ``manage.py check`` and ``runserver`` run them."""

from __future__ import annotations

from typing import Any

from django.core.checks import Error, register

from celery_perpetual.beat.admin_name import fails_in_admin


@register()  # type: ignore[untyped-decorator]  # Django ships no types
def check_beat_scheduler(**_: Any) -> list[Error]:
    """``celery_perpetual.E001``: the admin of django-celery-beat cannot import the name of the scheduler."""
    reason = fails_in_admin()
    return [] if reason is None else [Error(reason, id="celery_perpetual.E001")]
