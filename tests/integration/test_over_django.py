"""``celery beat -S perpetual_django``: the rows of django-celery-beat, beside perpetual tasks."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import BASE_ROW_REFUSED, TASK_ROWS_AWAY, WIRING_MISSING
from tests.support import wait_until
from tests.support.django_site import DjangoSite
from tests.support.stream_events import events, leader, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project
    from tests.support.postgres import PostgresServer

SUN = """
def where_it_is_noon(seconds):
    import ephem

    at = timezone.now().replace(tzinfo=None) + datetime.timedelta(seconds=seconds)
    sun = ephem.Sun()
    here = ephem.Observer()
    here.date = at
    sun.compute(here)
    # Where the sun's hour angle is 0.
    longitude = math.degrees(float(sun.ra) - float(here.sidereal_time()))
    return {"latitude": 10, "longitude": round((longitude + 180) % 360 - 180, 6)}
"""

POLLED = """
@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [Item((1,), key=False)])
def visit(n): ...
"""


@pytest.fixture(params=["SQLite", pytest.param("PostgreSQL", marks=pytest.mark.long)])
def database(request: pytest.FixtureRequest) -> dict[str, Any] | None:
    """Django's settings of the database, None for a file."""
    return None if request.param == "SQLite" else request.getfixturevalue("postgres").database


def test_rows_are_sent_as_django_celery_beat_does(
    project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    store_redis: redis.Redis,
    database: dict[str, Any] | None,
) -> None:
    """Rows are added, changed, disabled and deleted while beat runs; one that cannot work harms no other."""
    source = (
        POLLED
        + "app.conf.beat_schedule = {'static': {'task': 'proj.entry', 'schedule': 1, 'options': {'queue': 'static'}}}"
    )
    with DjangoSite(project, monkeypatch, source, database=database) as site:
        site.run("row('often', interval=interval(1), kwargs='{\"a\": 1}', headers='{\"x\": 2}')")
        site.run("row('once', interval=interval(1), one_off=True)")
        site.run("row('over', interval=interval(1), expires=timezone.now() - datetime.timedelta(hours=1))")
        site.run("row('later', interval=interval(1), start_time=timezone.now() + datetime.timedelta(hours=1))")
        site.run(
            "row('clocked', one_off=True, "
            "clocked=ClockedSchedule.objects.create(clocked_time=timezone.now() + datetime.timedelta(seconds=2)))"
        )
        site.run("broken_row('none')")
        site.run("broken_row('bad', crontab=CrontabSchedule.objects.create(minute='99'))")
        beat = site.beat()
        often = site.wait_for("often", 3)
        assert often[0].kwargs == {"a": 1}
        assert (often[0].headers["x"], often[0].headers["periodic_task_name"]) == (2, "often")
        site.wait_for("static", 2)
        site.wait_for("clocked", 1)
        assert {event["row"] for event in beat.events(BASE_ROW_REFUSED)} == {"none", "bad"}

        site.run("row('added', interval=interval(1))")
        site.run("row('often', enabled=False)")
        site.wait_for("added", 2)
        stopped = len(site.sent("often"))
        site.run("row('added', interval=interval(3600))")
        site.run("PeriodicTask.objects.get(name='static').delete()")
        time.sleep(2.5)
        changed, deleted = len(site.sent("added")), len(site.sent("static"))
        site.run("row('often', enabled=True)")
        site.wait_for("often", stopped + 2)

        assert (len(site.sent("added")), len(site.sent("static"))) == (changed, deleted)
        assert len(site.sent("once")) == len(site.sent("clocked")) == 1
        assert site.run("fields('once')['enabled']") is False
        assert site.sent("over") == site.sent("later") == site.sent("bad") == []
        assert len(statuses(store_redis, "proj.visit")) > 5
        assert beat.terminate()[0] == 0
        last = site.sent("often")[-1].headers["sent_at"]
        row = site.run("fields('often')")
        assert row["runs"] == len(site.sent("often"))
        assert abs(row["last"] - last) < 0.5


def test_who_has_rows_and_no_wiring_is_advised_to_keep_them(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By beat and by `check`, which names the setting too."""
    settings = {"beat_scheduler": "django_celery_beat.schedulers:DatabaseScheduler"}
    source = "from celery_perpetual import Item, PerpetualTask\n" + POLLED
    with DjangoSite(project, monkeypatch, source, perpetual=False, settings=settings) as site:
        beat = site.proj.beat()

        advice = "Perpetual(app), and start it with -S perpetual_django"
        means = "this beat does not poll proj.visit"
        assert beat.wait_for_event(WIRING_MISSING) == {"means": means, "advice": advice}
        found = site.proj.celery("perpetual", "check")
        assert found.returncode == 2
        assert "this app is not wired" in found.stdout
        ours = "celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler"
        assert f"helps: beat_scheduler = {ours!r}\n" in found.stdout


@pytest.mark.long
def test_a_row_of_the_sun_is_sent(project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is at its highest there in a few seconds; the next time is a day later."""
    with DjangoSite(project, monkeypatch, SUN) as site:
        sun = "SolarSchedule.objects.create(event='solar_noon', **where_it_is_noon(6))"
        site.run(f"row('noon', solar={sun})")
        site.run("row('often', interval=interval(1))")
        beat = site.beat()
        site.wait_for("often", 1)
        assert site.sent("noon") == []
        site.wait_for("noon", 1)
        site.wait_for("often", len(site.sent("often")) + 3)

        assert len(site.sent("noon")) == 1
        assert beat.events(BASE_ROW_REFUSED) == []


def test_a_perpetual_task_has_a_row_that_an_admin_can_change(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch, store_redis: redis.Redis
) -> None:
    """Disabling it pauses, enabling resumes, another schedule is followed, and one that cannot work is not."""
    source = """
@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: None)
def visit(n): ...

@app.task(base=PerpetualTask, poll_every=crontab(minute="7", hour="3"), next_batch=lambda: None)
def nightly(n): ...

class Own(schedule): ...

@app.task(base=PerpetualTask, poll_every=Own(3600), next_batch=lambda: None)
def own(n): ...
"""
    name = "perpetual:proj.visit"
    with DjangoSite(project, monkeypatch, source) as site:
        beat = site.beat()
        wait_until(lambda: site.run("PeriodicTask.objects.filter(name__startswith='perpetual:').count()") == 3, "rows")
        assert site.run(f"fields({name!r})")["schedule"] == "every 500000 microseconds"
        assert site.run("fields('perpetual:proj.nightly')")["schedule"].startswith("7 3 * * *")
        assert site.run("fields('perpetual:proj.own')")["schedule"] == "None"
        assert site.run(f"fields({name!r})")["task"] == "proj.visit"

        def polls() -> int:
            return sum(event["repeated"] == 1 or event["repeated"] for event in events(store_redis, "poll"))

        def state() -> tuple[str, str | None]:
            unit = next(unit for unit in site.run("perpetual.units()") if unit["task"] == "proj.visit")
            return unit["state"], unit["reason"]

        wait_until(lambda: site.run(f"fields({name!r})['runs']") >= 5, "the row counts polls", 20)
        assert time.time() - site.run(f"fields({name!r})['last']") < 10

        site.run(f"row({name!r}, enabled=False)")
        wait_until(lambda: state() == ("paused", "disabled in the admin"), "paused", 5)
        site.run(f"row({name!r}, enabled=True)")
        wait_until(lambda: state() == ("active", None), "resumed", 5)
        assert [event["by"] for event in events(store_redis, "pause")] == ["django-celery-beat"]

        site.run(f"row({name!r}, interval=interval(3600))")

        def next_poll_in() -> float:
            text = next(unit for unit in site.run("perpetual.units()") if unit["task"] == "proj.visit")["next_poll_at"]
            return float(site.run(f"datetime.datetime.fromisoformat({text!r}).timestamp()")) - time.time()

        wait_until(lambda: next_poll_in() > 1000, "polled at the row's interval", 5)
        site.run(f"row({name!r}, interval=None, crontab=CrontabSchedule.objects.create(minute='*'))")
        wait_until(lambda: 0 < next_poll_in() < 61, "polled by the row's crontab", 5)
        site.run(f"PeriodicTask.objects.filter(name={name!r}).update(interval=interval(3600))")
        beat.wait_for_log("needs exactly one schedule, got interval and crontab")
        wait_until(lambda: next_poll_in() < 1, "polled as the code says", 5)
        site.run("CrontabSchedule.objects.filter(minute='*').update(minute='77')")
        site.run(f"PeriodicTask.objects.filter(name={name!r}).update(interval=None)")
        beat.wait_for_log("its crontab cannot be read")

        site.run(f"PeriodicTask.objects.get(name={name!r}).delete()")
        time.sleep(2)
        assert not site.run(f"PeriodicTask.objects.filter(name={name!r}).exists()")
        assert beat.terminate()[0] == 0
        site.beat()
        wait_until(lambda: site.run(f"PeriodicTask.objects.filter(name={name!r}).exists()"), "the row is back", 20)
        assert site.sent("celery") == []


@pytest.mark.parametrize("seconds", [6, pytest.param(30, marks=pytest.mark.long)])
def test_a_database_that_goes_away_stops_neither_entries_nor_polls(
    project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    store_redis: redis.Redis,
    postgres: PostgresServer,
    seconds: int,
) -> None:
    """On PostgreSQL: rows that were read go on, changes are seen when it is back, and no entry runs twice for it."""
    with DjangoSite(project, monkeypatch, POLLED, database=postgres.database) as site:
        site.run("row('often', interval=interval(1))")
        site.run("row('seldom', interval=interval(3600), last_run_at=timezone.now() - datetime.timedelta(days=1))")
        beat = site.beat()
        site.wait_for("often", 2)
        site.wait_for("seldom", 1)
        lead = leader(store_redis)

        postgres.stop()
        polled, sent = len(statuses(store_redis, "proj.visit")), len(site.sent("often"))
        beat.wait_for_event(TASK_ROWS_AWAY)
        site.wait_for("often", sent + seconds, seconds + 20)
        assert len(statuses(store_redis, "proj.visit")) > polled + seconds
        postgres.start()
        site.run("django.db.connections.close_all()")
        site.run("row('added', interval=interval(1))")
        site.run("row('perpetual:proj.visit', enabled=False)")

        site.wait_for("added", 2)
        wait_until(lambda: site.run("perpetual.units()")[0]["reason"] == "disabled in the admin", "it is paused", 10)
        assert leader(store_redis) == lead
        assert beat.terminate()[0] == 0
        assert len(site.sent("seldom")) == 1
        gaps = [b.headers["sent_at"] - a.headers["sent_at"] for a, b in pairwise(site.sent("often"))]
        assert min(gaps) > 0.8, gaps
        assert max(gaps) < 3, gaps
        assert site.run("fields('often')['runs']") == len(site.sent("often"))


@pytest.mark.long
def test_a_database_that_freezes_holds_up_no_stop(
    project: Callable[..., Project],
    monkeypatch: pytest.MonkeyPatch,
    store_redis: redis.Redis,
    postgres: PostgresServer,
) -> None:
    """Its connections stay open, and it says nothing: SIGTERM ends beat all the same, which gives up the lead."""
    # As Django has it: nothing bounds how long a new connection is waited for.
    database = {**postgres.database, "OPTIONS": {}}
    with DjangoSite(project, monkeypatch, POLLED, database=database) as site:
        site.run("row('often', interval=interval(1))")
        beat = site.beat()
        site.wait_for("often", 2)
        try:
            postgres.freeze()
            code, seconds = beat.terminate()
        finally:
            postgres.thaw()

        assert code == 0
        assert seconds < 15
        assert leader(store_redis) is None


def test_a_name_that_the_admin_cannot_import_is_refused(
    project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list of periodic tasks would fail at each visit; beat and `manage.py check` say what to write."""
    more = """
INSTALLED_APPS += ["django.contrib.admin", "celery_perpetual.contrib.django"]
CELERY_BEAT_SCHEDULER = "perpetual_django"
"""
    wanted = "write CELERY_BEAT_SCHEDULER = 'celery_perpetual.beat.perpetual_django:PerpetualDjangoScheduler'"
    with DjangoSite(project, monkeypatch, POLLED, site_settings=more) as site:
        beat = site.beat()
        checks = "__import__('django.core.checks').core.checks.run_checks()"
        found = site.run(f"[each.msg for each in {checks} if each.id == 'celery_perpetual.E001']")

        assert beat.wait() == 1
        assert wanted in beat.log()
        assert "Traceback" not in beat.log()
        assert [wanted in text for text in found] == [True]
