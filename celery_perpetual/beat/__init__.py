"""Celery beat with perpetual tasks."""
