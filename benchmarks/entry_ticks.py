"""Idle ticks of a bare scheduler and of ours over it, with as many entries; in turns, in one process.

Prints JSON: the seconds of each tick. ``python entry_ticks.py {celery|django|redbeat} {Redis URL} {entries} {ticks}``
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import Celery
from celery.beat import PersistentScheduler

from celery_perpetual import Perpetual
from celery_perpetual.beat.scheduler import PerpetualScheduler

if TYPE_CHECKING:
    from collections.abc import Callable

DAY = 86_400.0
#: Ticks of one side before it is the other one's turn.
IN_A_ROW = 20

Pair = tuple["Callable[[], Any]", "Callable[[], Any]"]


def celerys(app: Celery, folder: Path, count: int) -> Pair:
    """Celery's own: entries in a file beside each beat."""
    app.conf.beat_schedule = {f"entry-{n}": {"task": "bench.nothing", "schedule": DAY} for n in range(count)}
    return (
        lambda: PersistentScheduler(app, schedule_filename=str(folder / "bare")),
        lambda: PerpetualScheduler(app, schedule_filename=str(folder / "ours")),
    )


def djangos(app: Celery, folder: Path, count: int) -> Pair:
    """django-celery-beat: rows of one table."""
    import django
    from django.conf import settings
    from django.core.management import call_command

    settings.configure(
        SECRET_KEY="of a benchmark",  # noqa: S106  # it serves nobody
        USE_TZ=True,
        INSTALLED_APPS=["django.contrib.contenttypes", "django_celery_beat"],
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(folder / "rows")}},
    )
    django.setup()
    call_command("migrate", verbosity=0)
    from django_celery_beat.models import IntervalSchedule, PeriodicTask
    from django_celery_beat.schedulers import DatabaseScheduler

    from celery_perpetual.beat.perpetual_django import PerpetualDjangoScheduler

    daily = IntervalSchedule.objects.create(every=1, period="days")
    PeriodicTask.objects.bulk_create(
        PeriodicTask(name=f"entry-{n}", task="bench.nothing", interval=daily) for n in range(count)
    )
    return lambda: DatabaseScheduler(app), lambda: PerpetualDjangoScheduler(app)


def redbeats(app: Celery, folder: Path, count: int) -> Pair:  # noqa: ARG001
    """RedBeat: entries in Redis."""
    from celery.schedules import schedule
    from redbeat import RedBeatScheduler, RedBeatSchedulerEntry
    from redbeat.schedulers import acquire_distributed_beat_lock

    from celery_perpetual.beat.perpetual_redbeat import PerpetualRedBeatScheduler

    app.conf.redbeat_redis_url = app.conf.broker_url
    for n in range(count):
        RedBeatSchedulerEntry(f"entry-{n}", "bench.nothing", schedule(DAY), app=app).save()

    def bare() -> Any:
        scheduler = RedBeatScheduler(app)
        acquire_distributed_beat_lock(SimpleNamespace(scheduler=scheduler))
        return scheduler

    return bare, lambda: PerpetualRedBeatScheduler(app)


BASES = {"celery": celerys, "django": djangos, "redbeat": redbeats}


def ticks(scheduler: Any, number: int) -> list[float]:
    """Seconds of each tick; none has anything to send."""
    found = []
    for _ in range(number):
        begun = time.perf_counter()
        pause = scheduler.tick()
        found.append(time.perf_counter() - begun)
        assert pause > 0, "an entry was due"
    return found


def main(base: str, url: str, count: int, number: int) -> None:
    """Measure, and print."""
    app = Celery("bench", broker=url, set_as_current=True)
    Perpetual(app)
    with tempfile.TemporaryDirectory() as folder:
        make_bare, make_ours = BASES[base](app, Path(folder), count)
        schedulers = {"bare": make_bare(), "ours": make_ours()}
        seen: dict[str, list[float]] = {name: [] for name in schedulers}
        for scheduler in schedulers.values():
            ticks(scheduler, 3)  # makes the heap
        for _ in range(number // IN_A_ROW):
            for name, scheduler in schedulers.items():
                seen[name] += ticks(scheduler, IN_A_ROW)
        schedulers["ours"].close()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
