"""``celery beat -S perpetual_django``: perpetual tasks beside django-celery-beat."""

from __future__ import annotations

try:
    from celery_perpetual.beat.bases.database import DatabaseBase
except ImportError as missing:
    raise ImportError(f"{missing}; pip install 'celery-perpetual[django-celery-beat]'") from missing
from celery_perpetual.beat.scheduler import PerpetualScheduler


class PerpetualDjangoScheduler(PerpetualScheduler, DatabaseBase):
    """Our scheduler over ``django_celery_beat.schedulers:DatabaseScheduler``, which it is a subclass of."""
