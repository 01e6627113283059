"""From committed records to messages in the broker."""

from __future__ import annotations

from celery_perpetual.publishing.once import publish_once
from celery_perpetual.publishing.publisher import Publisher, publish_or_leave

__all__ = ["Publisher", "publish_once", "publish_or_leave"]
