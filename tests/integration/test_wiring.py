"""Every way to wire an app leads to polled tasks, and every other scheduler is warned about."""

from __future__ import annotations

import pytest

from celery_perpetual.events import SCHEDULER_OTHER, SCHEDULER_WITHOUT_POLLS, WIRING_MISSING
from tests.support import wait_until

TASK = """
@app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [(1,)])
def work(n):
    ledger.record(n)
"""

PLAIN_TASK = """
from celery_perpetual import PerpetualTask

@app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [(1,)])
def work(n):
    ledger.record(n)
"""

DJANGO = """
from django.conf import settings

settings.configure(INSTALLED_APPS=["celery_perpetual.contrib.django"], USE_TZ=True)
os.environ["DJANGO_SETTINGS_MODULE"] = "django.conf.global_settings"
from celery.fixups.django import fixup
import django

django.setup()
"""


def polled(project) -> bool:
    return project.redis.llen("celery") > 0


@pytest.mark.parametrize("args", [(), ("-S", "perpetual")], ids=["default", "-S perpetual"])
def test_perpetual_app_is_all_the_wiring(project, args):
    """`Perpetual(app)` makes beat use our scheduler; the entry point names the same one."""
    shop = project(TASK)
    beat = shop.beat(*args)

    wait_until(lambda: polled(shop), "beat polls")

    log = beat.log()
    assert "scheduler -> celery_perpetual.beat.scheduler.PerpetualScheduler" in log
    assert "base scheduler -> celery.beat:PersistentScheduler" in log
    assert "perpetual -> proj.work, every 1 s" in log


def test_autowire_in_imports_does_the_same(project):
    """A plain app that names the module in `imports` is polled, and its worker settles the ends."""
    shop = project(PLAIN_TASK, perpetual=False, settings={"imports": ["celery_perpetual.autowire"]})
    beat = shop.beat()
    wait_until(lambda: polled(shop), "beat polls")
    shop.worker(concurrency=1)

    wait_until(lambda: len(shop.rows("ran")) >= 2, "the item runs, ends, and is found again")
    assert "PerpetualScheduler" in beat.log()


def test_django_app_in_installed_apps_does_the_same(project):
    """`celery_perpetual.contrib.django` wires the project's app when Django is set up."""
    shop = project(DJANGO + PLAIN_TASK, perpetual=False)
    shop.beat()
    wait_until(lambda: polled(shop), "beat polls")
    shop.worker(concurrency=1)

    wait_until(lambda: len(shop.rows("ran")) >= 2, "the item runs, ends, and is found again")


def test_a_scheduler_of_the_users_own_is_left_alone_and_warned_about(project):
    """Beat with another scheduler, `check` and the worker say that nothing is polled."""
    shop = project(TASK, settings={"beat_scheduler": "celery.beat:Scheduler"})
    beat = shop.beat().ready()
    worker = shop.worker(concurrency=1).ready()

    advice = "start it with -S perpetual"
    assert beat.wait_for_event(SCHEDULER_WITHOUT_POLLS) == {"tasks": "proj.work", "advice": advice}
    warning = worker.wait_for_event(SCHEDULER_OTHER)["warning"]
    assert warning == (
        "beat_scheduler is 'celery.beat:Scheduler', which does not poll perpetual tasks; "
        "set beat_scheduler = 'perpetual'"
    )
    check = shop.celery("perpetual", "check")
    assert check.returncode == 1
    assert "which does not poll perpetual tasks" in check.stdout


def test_beat_and_worker_of_an_app_that_is_not_wired_say_so(project):
    """They know of the perpetual task by its class; of an app without one nothing is said."""
    shop = project(PLAIN_TASK, perpetual=False)
    beat, worker = shop.beat(), shop.worker(concurrency=1)

    means = "this beat does not poll proj.work"
    assert beat.wait_for_event(WIRING_MISSING) == {"means": means, "advice": "Perpetual(app)"}
    means = "this worker runs proj.work without leases, and announces no ends"
    assert worker.wait_for_event(WIRING_MISSING) == {"means": means, "advice": "Perpetual(app)"}


def test_making_perpetual_reads_no_configuration(project):
    """The app may be configured afterwards, as Celery's own documentation does it."""
    shop = project(perpetual=False)

    out = shop.run_python(
        f"""
        from celery import Celery
        from celery_perpetual import Perpetual
        app = Celery("late")
        perpetual = Perpetual(app)
        assert not app.configured
        app.conf.update(broker_url={shop.url!r}, perpetual_key_prefix="late")
        print(app.conf.beat_scheduler, perpetual.settings.key_prefix, app.perpetual is perpetual)
        other = Celery("other")
        Perpetual().init_app(other)
        other.conf.beat_scheduler = "mine"
        print(other.conf.beat_scheduler)
        """
    )

    assert out.split() == ["celery_perpetual.beat.scheduler:PerpetualScheduler", "late", "True", "mine"]


def test_importing_changes_nothing(project):
    """An app that is not wired keeps Celery's scheduler although the package is imported."""
    shop = project(perpetual=False)

    out = shop.run_python("import celery_perpetual, proj; print(proj.app.conf.beat_scheduler)")

    assert out.strip() == "celery.beat:PersistentScheduler"
