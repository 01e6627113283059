"""Django's database connections in threads that are not a request's: Django leaves their life to us."""

from __future__ import annotations

import sys

from celery_perpetual import events
from celery_perpetual.telemetry import emit


def close_old_connections() -> None:
    """Before and after code of the user's: close connections that are too old or broken, where Django is in use."""
    conf, database = sys.modules.get("django.conf"), sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return  # installed by some other package, and not used by this project
    try:
        database.close_old_connections()
    except Exception as error:  # what is wrong with them concerns who uses them
        emit(events.DJANGO_CONNECTIONS_KEPT, error=error)
