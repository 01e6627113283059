"""``celery beat -S perpetual_redbeat``: RedBeat's entries, beside perpetual tasks, under our lead."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery_perpetual.events import BASE_LOCK_HELD
from tests.support import wait_until
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.stream_events import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

SOURCE = """
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry as Entry

app.conf.redbeat_redis_url = app.conf.broker_url

@app.task
def entry(): ...

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [(1,)])
def visit(n): ...

app.conf.beat_schedule = {"static": {"task": "proj.entry", "schedule": 1, "options": {"queue": "static"}}}

def make(name, seconds, **fields):
    Entry(name, "proj.entry", schedule(seconds), options={"queue": name}, app=app, **fields).save()

def stored(name):
    return Entry.from_key("redbeat:" + name, app=app)
"""


def test_redbeats_entries_are_sent_under_our_lead(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Its API makes, reschedules and deletes entries while beat runs; a lock that somebody holds delays nothing."""
    proj = project(SOURCE)
    # Of a beat that was killed: RedBeat alone would wait for it for 25 minutes.
    store_redis.set("redbeat::lock", "somebody's")

    def number(queue: str) -> int:
        return len(queued(store_redis, queue))

    with Console(proj) as console:
        console("make('often', 1)")
        console("make('off', 1, enabled=False)")
        console("make('seldom', 3600)")
        # No schedule file is needed, so none is written.
        beat = proj.beat("-S", "perpetual_redbeat", "-s", "no/such/folder/schedule")
        wait_until(lambda: number("often") >= 3 and number("static") >= 3, "entries are sent", 20)
        assert number("seldom") == 0

        console("make('added', 1)")
        console("stored('often').delete()")
        console("stored('seldom').reschedule(last_run_at=app.now() - datetime.timedelta(hours=2))")
        wait_until(lambda: number("added") >= 2 and number("seldom") == 1, "a new and a rescheduled entry", 20)
        deleted = number("often")
        time.sleep(2)

        assert number("often") == deleted
        assert number("off") == 0
        assert number("seldom") == 1
        assert len(statuses(store_redis, "proj.visit")) > 5
        # RedBeat counts a run just before it sends it; a beat that is ended in between has counted one more.
        wait_until(lambda: console("stored('static').total_run_count") == number("static"), "each run is one message")
        assert beat.terminate()[0] == 0
        assert beat.events(BASE_LOCK_HELD) == [{"lock": "redbeat::lock"}]
        assert store_redis.get("redbeat::lock") == "somebody's"
