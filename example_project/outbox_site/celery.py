"""The Celery app. `Perpetual(app)` is all the wiring that perpetual tasks need."""

import os

from celery import Celery

from celery_perpetual import Perpetual

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "outbox_site.settings")

app = Celery("outbox_site")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()

perpetual = Perpetual(app)
