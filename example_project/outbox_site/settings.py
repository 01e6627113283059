"""Django settings of the webhook outbox. What differs between machines comes from the environment."""

import os
from pathlib import Path

from outbox_site import databases

BASE_DIR = Path(__file__).resolve().parent.parent

SECRET_KEY = os.environ.get("OUTBOX_SECRET_KEY", "an example needs no secret")
DEBUG = os.environ.get("OUTBOX_DEBUG") == "1"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_beat",
    "webhooks",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
ROOT_URLCONF = "outbox_site.urls"
STATIC_URL = "static/"

DATABASES = {"default": databases.from_environment(os.environ, BASE_DIR)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True

# A line for each request would only repeat what the worker says of each task.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "loggers": {"httpx": {"level": "WARNING"}},
}

# Celery. The store of celery-perpetual is the broker, as that is Redis.
CELERY_BROKER_URL = os.environ.get("REDIS_URL", "redis://127.0.0.1:6379/0")

# The schedule is in the tables of django-celery-beat, and each perpetual task has a row there; see docs/schedulers.md.
CELERY_BEAT_SCHEDULER = "celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler"

# How soon a worker that says nothing counts as dead, and how often the leader looks; see docs/settings.md.
if OUTBOX_LEASE_TTL := os.environ.get("OUTBOX_LEASE_TTL"):
    CELERY_PERPETUAL_LEASE_TTL = float(OUTBOX_LEASE_TTL)
if OUTBOX_CYCLE_INTERVAL := os.environ.get("OUTBOX_CYCLE_INTERVAL"):
    CELERY_PERPETUAL_CYCLE_INTERVAL = float(OUTBOX_CYCLE_INTERVAL)

# Seconds between two digests of an endpoint: a day.
OUTBOX_DIGEST_EVERY = float(os.environ.get("OUTBOX_DIGEST_EVERY", "86400"))

# Seconds between two questions for receipts of an endpoint.
OUTBOX_RECEIPTS_EVERY = float(os.environ.get("OUTBOX_RECEIPTS_EVERY", "60"))

# One Redis for several projects: a name of its own keeps the queue, the store's keys and the talk of workers apart.
if OUTBOX_NAMESPACE := os.environ.get("OUTBOX_NAMESPACE"):
    CELERY_TASK_DEFAULT_QUEUE = OUTBOX_NAMESPACE
    CELERY_PERPETUAL_KEY_PREFIX = OUTBOX_NAMESPACE
    CELERY_CONTROL_EXCHANGE = OUTBOX_NAMESPACE
    CELERY_EVENT_EXCHANGE = f"{OUTBOX_NAMESPACE}.events"
