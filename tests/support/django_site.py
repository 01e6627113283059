"""A project with Django and django-celery-beat, whose rows a test changes as an admin would."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    from typing_extensions import Self

    from tests.support import Project
    from tests.support.broker import Message

SETTINGS = """
SECRET_KEY = "only for a test"
USE_TZ = True
TIME_ZONE = "UTC"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "django_celery_beat"]
DATABASES = {{"default": {database!r}}}
"""

#: Every message says when it was sent; `row` makes or changes a row and tells so, as saving in the admin does.
SOURCE = """
import math

import django
django.setup()
from django.core.management import call_command
from django.utils import timezone
from django_celery_beat.models import *
from celery.schedules import crontab, schedule

@signals.before_task_publish.connect(weak=False)
def note_time(headers=None, **_):
    headers["sent_at"] = time.time()

@app.task
def entry(*args, **kwargs): ...

def interval(seconds):
    return IntervalSchedule.objects.get_or_create(every=seconds, period="seconds")[0]

def row(name, **fields):
    found = PeriodicTask.objects.filter(name=name).first() or PeriodicTask(name=name, task="proj.entry", queue=name)
    for field, value in fields.items():
        setattr(found, field, value)
    found.save()

def broken_row(name, **fields):
    PeriodicTask.objects.bulk_create([PeriodicTask(name=name, task="proj.entry", queue=name, **fields)])
    PeriodicTasks.update_changed()

def fields(name):
    found = PeriodicTask.objects.select_related("interval", "crontab").get(name=name)
    return {
        "enabled": found.enabled, "runs": found.total_run_count, "task": found.task, "args": found.args,
        "last": found.last_run_at and found.last_run_at.timestamp(), "schedule": str(found.scheduler),
    }
"""


#: A new file with all tables, by what the settings have besides: making them takes two seconds.
TABLES: dict[str, bytes] = {}


class DjangoSite:
    """A project over SQLite, or the database that is given."""

    def __init__(
        self,
        project: Callable[..., Project],
        monkeypatch: pytest.MonkeyPatch,
        source: str = "",
        *,
        database: dict[str, Any] | None = None,
        site_settings: str = "",
        **config: Any,
    ) -> None:
        # The processes of the project inherit it.
        monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "site_settings")
        self.proj = project(SOURCE + source, **config)
        file = self.proj.folder / "site.sqlite"
        sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(file)}
        tables = None if database else TABLES.get(site_settings)
        if tables:
            file.write_bytes(tables)
        # Two beats and the test write to one file.
        settings = database or {**sqlite, "OPTIONS": {"timeout": 20, "transaction_mode": "IMMEDIATE"}}
        self.proj.write("site_settings.py", SETTINGS.format(database=settings) + site_settings)
        self.run = Console(self.proj)
        if not tables:
            self.run("call_command('migrate', verbosity=0)")
            if not database:
                TABLES[site_settings] = file.read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.run.__exit__(*raised)

    def beat(self, *args: str, **options: Any) -> Any:
        return self.proj.beat("-S", "perpetual_django", *args, **options)

    def sent(self, queue: str) -> list[Message]:
        return queued(self.proj.redis, queue)

    def wait_for(self, queue: str, number: int, timeout: float = 20) -> list[Message]:
        """Wait until so many messages are in a queue."""
        wait_until(lambda: len(self.sent(queue)) >= number, f"{number} messages in {queue}", timeout)
        return self.sent(queue)
