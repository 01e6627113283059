"""Our scheduler over django-celery-beat, ticked by hand: its rows, as its own tests want them, and over take-overs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.django_site import DjangoSite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Project

#: A beat that this process ticks; `follow` makes the next one, as when the one before was killed.
BY_HAND = """
from unittest.mock import patch
from django.db import DatabaseError
from django_celery_beat.schedulers import ModelEntry
from celery_perpetual.beat.bases import database
from celery_perpetual.beat.perpetual_django import PerpetualDjangoScheduler

database.CHECK_EVERY = 0.0  # each tick asks for changes
app.conf.result_expires = None
beats = []

def follow():
    for beat in beats[-1:]:
        beat._perpetual_engine.stop()
    beats.append(PerpetualDjangoScheduler(app))
    beats[-1]._last_sync = time.monotonic()  # else it writes the first run at once
    return names()

def names():
    return set(beats[-1].schedule)

def ticks(times=3):
    for _ in range(times):
        beats[-1].tick()

def sync():
    beats[-1].sync()

def end():
    beats[-1].close()

def heap():
    return [event.entry.name for event in beats[-1]._heap]

def ago(**parts):
    return timezone.now() - datetime.timedelta(**parts)

def hour(offset, **fields):
    at = (timezone.now().hour + offset) % 24
    return CrontabSchedule.objects.create(minute=fields.get("minute", "*"), hour=str(at))

def clocked(**parts):
    return ClockedSchedule.objects.create(clocked_time=timezone.now() + datetime.timedelta(**parts))

def change(name, **fields):
    PeriodicTask.objects.filter(name=name).update(**fields)
    PeriodicTasks.update_changed()

def value(name, field):
    return getattr(PeriodicTask.objects.get(name=name), field)
"""


class Rows(DjangoSite):
    """The site, and what a test does with it."""

    def counts(self, *queues: str) -> list[int]:
        return [len(self.sent(queue)) for queue in queues]


@pytest.fixture
def rows(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rows]]:
    """Make one, with further source and Django's settings."""
    made: list[Rows] = []

    def make(source: str = "", **options: Any) -> Rows:
        made.append(Rows(project, monkeypatch, BY_HAND + source, **options))
        return made[-1]

    yield make
    for each in made:
        each.run("end()")
        each.__exit__(None, None, None)


def test_the_schedule_has_the_rows_that_may_be_due(rows: Callable[..., Rows]) -> None:
    """As without us: what is disabled or far away is not loaded, and the code's entries set the kind of their rows."""
    source = """
app.conf.beat_schedule = {
    name: {"task": "proj.entry", "schedule": 3600, "options": {"queue": name}} for name in ("code", "off")
}
"""
    site = rows(source)
    site.run("row('interval', interval=interval(10))")
    site.run("row('disabled', interval=interval(10), enabled=False)")
    site.run("row('minutes', crontab=CrontabSchedule.objects.create(minute='2,4,5'))")
    for offset in (-1, 0, 1):
        site.run(f"row('hour {offset}', crontab=hour({offset}))")
    far = 3 if site.run("timezone.now().hour") != 1 else 5  # four o'clock, of Celery's own cleanup, is always loaded
    site.run(f"row('far', crontab=hour({far}))")
    site.run("row('soon', one_off=True, clocked=clocked(minutes=2))")
    site.run("row('later', one_off=True, clocked=clocked(minutes=10))")
    site.run("row('off', interval=interval(10), enabled=False)")
    site.run("row('code', crontab=CrontabSchedule.objects.create(minute='1'))")

    loaded = site.run("follow()")

    assert set(loaded) == {"interval", "minutes", "hour -1", "hour 0", "hour 1", "soon", "code"}
    assert site.run("fields('code')['schedule']") == "every 3600 seconds"
    assert site.run("value('off', 'enabled')") is False


def test_a_change_of_a_row_and_what_beat_knows_of_it_are_both_kept(rows: Callable[..., Rows]) -> None:
    """An admin edits, disables or deletes a row of which beat has a run that is not written yet."""
    site = rows()
    for name in ("edited", "disabled", "deleted"):
        site.run(f"row({name!r}, interval=interval(3600), last_run_at=ago(hours=2))")
    site.run("follow()")
    site.run("ticks(6)")
    assert site.counts("edited", "disabled", "deleted") == [1, 1, 1]
    assert site.run("fields('edited')['runs']") == 0

    site.run("change('edited', args='[16, 16]')")
    site.run("change('disabled', enabled=False)")
    site.run("PeriodicTask.objects.get(name='deleted').delete()")
    site.run("ticks()")

    assert site.run("names()") == ["edited"]
    edited = site.run("fields('edited')")
    assert (edited["runs"], edited["args"]) == (1, "[16, 16]")
    site.run("sync()")
    assert site.run("value('disabled', 'enabled')") is False
    assert site.run("PeriodicTask.objects.count()") == 2
    assert site.counts("edited", "disabled", "deleted") == [1, 1, 1]

    # Enabled later: its last run is the one that was sent.
    site.run("change('disabled', enabled=True)")
    site.run("ticks()")
    assert set(site.run("names()")) == {"edited", "disabled"}
    assert site.counts("disabled") == [1]


def test_a_run_that_the_database_did_not_take_is_not_repeated(rows: Callable[..., Rows]) -> None:
    """Neither by this beat when it reads the rows anew, nor by the next one, which finds them as they were."""
    site = rows()
    site.run("row('overdue', interval=interval(1200), last_run_at=ago(minutes=30))")
    site.run("follow()")
    site.run("ticks(2)")
    assert site.counts("overdue") == [1]

    site.run("change('overdue', description='changed')")
    site.run(
        "[patcher := patch.object(ModelEntry, 'save', side_effect=DatabaseError('boom')), patcher.start(), ticks()] and 0"
    )
    assert site.counts("overdue") == [1]
    assert site.run("fields('overdue')['runs']") == 0
    site.run("[patch.stopall(), follow(), ticks()] and 0")

    assert site.counts("overdue") == [1]
    site.run("sync()")
    assert site.run("fields('overdue')['runs']") == 1


def test_the_heap_has_each_row_once(rows: Callable[..., Rows]) -> None:
    """Rows may change between the ticks; a start time that comes is heeded, and a row that is not due blocks none."""
    site = rows()
    site.run("row('a', interval=interval(1))")
    site.run("row('b', interval=interval(3600))")
    site.run("row('starting', interval=interval(3600), start_time=timezone.now() + datetime.timedelta(seconds=2))")
    site.run("follow()")

    def sent_at_last() -> bool:
        site.run("change('b', description=str(time.time()))")
        site.run("ticks(2)")
        assert sorted(site.run("heap()")) == ["a", "b", "starting"]
        return site.counts("starting") == [1]

    wait_until(sent_at_last, "the start time has come", 10)
    assert site.counts("a")[0] >= 1
    assert site.counts("b") == [0]


def test_times_without_zones_repeat_and_forget_nothing(rows: Callable[..., Rows]) -> None:
    """A project without USE_TZ, in Berlin, with Celery in New York: a take-over repeats nothing and forgets nothing."""
    settings = """
USE_TZ = False
TIME_ZONE = "Europe/Berlin"
DJANGO_CELERY_BEAT_TZ_AWARE = False
"""
    source = "\napp.conf.timezone = 'America/New_York'\n"
    site = rows(source, site_settings=settings)
    site.run(
        "row('overdue', interval=interval(1200), last_run_at=datetime.datetime.utcnow() - datetime.timedelta(hours=1))"
    )
    site.run("row('minutes', crontab=CrontabSchedule.objects.create(), last_run_at=datetime.datetime.utcnow())")
    site.run("follow()")
    site.run("ticks()")
    assert site.counts("overdue") == [1]

    site.run("[follow(), ticks()] and 0")

    assert site.counts("overdue") == [1]
    assert site.run("beats[-1].schedule['overdue'].is_due().next") == pytest.approx(1200, abs=30)
    assert site.run("beats[-1].schedule['minutes'].is_due().next") <= 60
    site.run("sync()")
    age = site.run("(datetime.datetime.utcnow() - value('overdue', 'last_run_at')).total_seconds()")
    assert 0 <= age < 60
