"""``CELERY_BEAT_SCHEDULER`` as the admin of django-celery-beat reads it."""

from __future__ import annotations

from celery_perpetual.beat.scheduler_setting import OURS
from celery_perpetual.errors import described


def fails_in_admin() -> str | None:
    """Why the admin fails over ``CELERY_BEAT_SCHEDULER``, None where it does not; for a process of a Django project.

    Its list of periodic tasks imports what that setting names, and knows no names of entry points.
    """
    from django.apps import apps  # a project without Django has none
    from django.conf import settings

    if not all(map(apps.is_installed, ("django.contrib.admin", "django_celery_beat"))):
        return None
    from django_celery_beat.utils import is_database_scheduler

    name = getattr(settings, "CELERY_BEAT_SCHEDULER", None)
    try:
        is_database_scheduler(name)
    except Exception as error:  # whatever the import of a name raises
        _, wanted = OURS["django_celery_beat.schedulers"]
        return (
            f"CELERY_BEAT_SCHEDULER = {name!r}: the admin of django-celery-beat cannot import this name "
            f"({described(error)}), so its list of periodic tasks fails; write CELERY_BEAT_SCHEDULER = {wanted!r}"
        )
    return None
