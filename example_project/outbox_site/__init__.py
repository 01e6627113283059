"""The Django project; importing it makes the Celery app known to `shared_task`."""

from outbox_site.celery import app as celery_app

__all__ = ["celery_app"]
