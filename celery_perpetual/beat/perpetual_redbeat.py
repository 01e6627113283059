"""``celery beat -S perpetual_redbeat``: perpetual tasks beside RedBeat."""

from __future__ import annotations

try:
    from celery_perpetual.beat.bases.redbeat import RedBeatBase
except ImportError as missing:
    raise ImportError(f"{missing}; pip install 'celery-perpetual[redbeat]'") from missing
from celery_perpetual.beat.scheduler import PerpetualScheduler


class PerpetualRedBeatScheduler(PerpetualScheduler, RedBeatBase):
    """Our scheduler over ``redbeat.RedBeatScheduler``, which it is a subclass of."""
