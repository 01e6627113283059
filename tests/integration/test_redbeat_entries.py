"""Our scheduler over RedBeat in this process: its entries, as RedBeat's own tests want them, and over take-overs."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry

from celery_perpetual import Perpetual
from celery_perpetual.beat.perpetual_redbeat import PerpetualRedBeatScheduler
from celery_perpetual.events import BASE_ROW_REFUSED
from tests.support.broker import queued
from tests.support.event_log import logged

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis
    from celery import Celery

Beat = PerpetualRedBeatScheduler
DUE = {"task": "app.entry", "schedule": 3600, "options": {"queue": "entries"}}


class World:
    """An app over RedBeat; one beat of it leads at a time."""

    def __init__(self, app: Celery) -> None:
        self.app = app
        Perpetual(app)
        self.beats: list[Any] = []

    def beat(self) -> Any:
        """Another beat, after the one before has ended without a farewell to its base."""
        self.stop()
        self.beats.append(Beat(self.app))
        return self.beats[-1]

    def stop(self) -> None:
        for each in self.beats[-1:]:
            each._perpetual_engine.stop()

    def entry(self, name: str, *, seconds: float = 3600, hours_ago: float | None = None, **fields: Any) -> Any:
        """Save an entry; it ran so long ago."""
        made = RedBeatSchedulerEntry(
            name, "app.entry", schedule(seconds, app=self.app), options={"queue": "entries"}, app=self.app, **fields
        )
        made.save()
        if hours_ago is not None:
            made.reschedule(datetime.now(timezone.utc) - timedelta(hours=hours_ago))
        return made

    def stored(self, name: str) -> Any:
        return RedBeatSchedulerEntry.from_key(f"redbeat:{name}", app=self.app)


@pytest.fixture
def world(make_app: Callable[..., Celery], redis_url: str) -> Iterator[World]:
    made = World(make_app(redbeat_redis_url=redis_url, result_expires=None))
    yield made
    made.stop()
    for each in made.beats:
        each.close()


def sent(client: redis.Redis) -> list[str]:
    return [message.task for message in queued(client, "entries")]


def test_only_what_is_due_is_sent(world: World, store_redis: redis.Redis) -> None:
    """An entry that ran long ago; not one that has just been made, is disabled, or has run already."""
    world.entry("due", hours_ago=2)
    world.entry("new")
    world.entry("off", hours_ago=2, enabled=False)
    beat = world.beat()

    pauses = [beat.tick() for _ in range(3)]

    assert len(sent(store_redis)) == 1
    assert all(0 < pause <= 0.5 for pause in pauses)
    assert world.stored("due").total_run_count == 1
    off = world.stored("off")
    off.enabled = True
    off.save()
    beat.tick()
    assert len(sent(store_redis)) == 2
    assert beat.lock_key is None


def test_an_entry_that_redis_has_evicted_is_taken_out(world: World, store_redis: redis.Redis) -> None:
    """Its hash is gone and its place in the schedule is not; the others are sent."""
    world.entry("gone", hours_ago=2)
    world.entry("due", hours_ago=2)
    store_redis.delete("redbeat:gone")
    beat = world.beat()

    beat.tick()

    assert len(sent(store_redis)) == 1
    assert store_redis.zrange("redbeat::schedule", 0, -1) == ["redbeat:due"]


def test_entries_of_the_code_come_change_and_go(world: World, store_redis: redis.Redis) -> None:
    """With each beat that takes the lead; the last run stays, and entries that were made at run time stay."""
    world.app.conf.beat_schedule = {"kept": DUE, "gone": DUE}
    world.entry("made")
    world.beat()
    ran = world.stored("kept")
    ran.reschedule(datetime.now(timezone.utc) - timedelta(hours=2))

    world.app.redbeat_conf.schedule = {"kept": {**DUE, "schedule": 10_800}, "new": DUE}
    beat = world.beat()
    beat.tick()

    assert sent(store_redis) == []
    assert world.stored("kept").schedule.run_every == timedelta(hours=3)
    assert abs(world.stored("kept").last_run_at - ran.last_run_at) < timedelta(seconds=1)
    names = {name.removeprefix("redbeat:") for name in store_redis.zrange("redbeat::schedule", 0, -1)}
    assert names == {"kept", "made", "new"}
    assert store_redis.smembers("redbeat::statics") == {"kept", "new"}


def test_an_entry_that_cannot_be_read_or_reckoned_harms_no_other(
    world: World, store_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It is reported once and kept; when it is put right it is sent."""
    bad = world.entry("bad", hours_ago=2)
    world.entry("odd", hours_ago=2)
    world.entry("due", hours_ago=2)
    definition = json.loads(store_redis.hget(bad.key, "definition") or "")
    store_redis.hset(bad.key, "definition", "no JSON")
    odd = json.loads(store_redis.hget("redbeat:odd", "definition") or "")
    odd["schedule"] = {"__type__": "interval", "every": "often", "relative": False}
    store_redis.hset("redbeat:odd", "definition", json.dumps(odd))
    beat = world.beat()

    for _ in range(3):
        beat.tick()

    assert len(sent(store_redis)) == 1
    assert sorted(event["row"] for event in logged(caplog, BASE_ROW_REFUSED)) == ["bad", "odd"]
    assert store_redis.zcard("redbeat::schedule") == 3
    store_redis.hset(bad.key, "definition", json.dumps(definition))
    beat.tick()
    assert len(sent(store_redis)) == 2


def test_a_take_over_repeats_nothing(world: World, store_redis: redis.Redis) -> None:
    """RedBeat's keys say what the last leader has sent."""
    world.entry("due", hours_ago=2)
    world.beat().tick()

    world.beat().tick()

    assert len(sent(store_redis)) == 1
