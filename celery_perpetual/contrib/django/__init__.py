"""Django: ``celery_perpetual.contrib.django`` in ``INSTALLED_APPS`` wires the project's Celery app."""
