"""Perpetual tasks beside Django: in use, installed and unused, and configured wrongly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.stream_events import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

SETTINGS = """
SECRET_KEY = "only for a test"
USE_TZ = True
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
"""

POLLED = """
@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(1,)])
def work(n): ...
"""


def test_a_perpetual_task_can_be_sent_on_commit(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """``delay_on_commit`` and ``apply_async_on_commit`` send when the transaction is committed, and not otherwise."""
    proj = project(POLLED)
    proj.write("site_settings.py", SETTINGS)

    proj.run_python(
        """
        import django
        from proj import work

        django.setup()
        from django.db import transaction

        with transaction.atomic():
            work.delay_on_commit(1)
            work.apply_async_on_commit((2,), priority=0)
            work.delay(0)
        try:
            with transaction.atomic():
                work.delay_on_commit(3)
                raise OSError
        except OSError:
            pass
        """,
        env={"DJANGO_SETTINGS_MODULE": "site_settings"},
    )

    assert [message.args for message in queued(store_redis)] == [[0], [1], [2]]


def test_a_django_that_nobody_configured_is_no_matter_of_polls(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A package may import Django in a process that does not use it."""
    proj = project("import django.db\n" + POLLED)
    proj.beat()

    wait_until(lambda: statuses(store_redis, "proj.work"), "it is polled")

    assert statuses(store_redis, "proj.work") == ["enqueued"]


@pytest.mark.parametrize("databases", ["{'reports': {}}", "{'default': {'ENGINE': 'no.such.engine'}}"])
def test_a_django_without_usable_databases_fails_only_what_reads_them(
    project: Callable[..., Project], store_redis: redis.Redis, databases: str
) -> None:
    """Connections that cannot be closed are worth a warning; the poll is judged by its ``next_batch`` alone."""
    proj = project(
        f"""
        import django.db
        from django.conf import settings

        settings.configure(DATABASES={databases})

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(1,)])
        def work(n): ...

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: django.db.connection.cursor())
        def reads(n): ...
        """
    )
    proj.beat()

    wait_until(lambda: statuses(store_redis, "proj.work") and statuses(store_redis, "proj.reads"), "both are polled")

    assert (statuses(store_redis, "proj.work"), statuses(store_redis, "proj.reads")) == (["enqueued"], ["failed"])


def test_a_wrong_setting_is_an_error_of_manage_py_check(project: Callable[..., Project]) -> None:
    """Beat and workers refuse it later; ``check``, ``runserver`` and ``migrate`` say it before."""
    out = project().run_python(
        """
        from celery import Celery
        from django.conf import settings

        settings.configure(
            INSTALLED_APPS=["celery_perpetual.contrib.django"], CELERY_PERPETUAL_LEADER_TLL=10,
            CELERY_BROKER_URL="redis://",
        )
        app = Celery("site")
        app.config_from_object("django.conf:settings", namespace="CELERY")
        import django

        django.setup()
        from django.core.checks import run_checks

        print(*[f"{each.id} {each.msg}" for each in run_checks()], sep="\\n")
        """
    )

    assert out.splitlines() == [
        "celery_perpetual.E002 unknown setting perpetual_leader_tll, did you mean perpetual_leader_ttl?"
    ]
