"""Celery's own schedule behind our scheduler: what is done at each tick, and when a change of it is seen."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from celery.beat import PersistentScheduler, ScheduleEntry, Scheduler

from celery_perpetual import Perpetual, PerpetualScheduler
from celery_perpetual.beat.own_clock import OwnClock
from tests.support import wait_until
from tests.support.broker import queued

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import redis
    from celery import Celery

DAY = {"task": "app.entry", "schedule": 86_400}
HOUR = {"task": "app.entry", "schedule": 3600}
SOON = {"task": "app.entry", "schedule": 0.3}


@pytest.fixture
def beat(make_app: Callable[..., Celery], tmp_path: Path) -> Iterator[PerpetualScheduler]:
    """At work in this process, with two thousand entries of a day, the heap of which is made."""
    app = make_app(beat_schedule={f"entry-{n}": DAY for n in range(2000)})
    Perpetual(app)
    scheduler = PerpetualScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    try:
        assert scheduler.tick() == pytest.approx(0.5)
        yield scheduler
    finally:
        scheduler.close()


def goes_by(beat: PerpetualScheduler, name: str, seconds: float) -> bool:
    """Whether the next tick goes by this entry with this interval."""
    beat.tick()
    found = [event.entry for event in beat._heap or () if event.entry.name == name]
    return [entry.schedule.run_every.total_seconds() for entry in found] == [seconds]


def test_entries_are_not_compared_at_every_tick(beat: PerpetualScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where nothing happens for seconds: the share of the time is bounded."""
    compared: list[Any] = []
    original = Scheduler.schedules_equal

    def spy(self: Scheduler, *schedules: Any) -> bool:
        compared.append(schedules)
        return original(self, *schedules)

    monkeypatch.setattr(Scheduler, "schedules_equal", spy)
    for _ in range(500):
        beat.tick()

    assert len(compared) <= 2


def test_changes_of_the_schedule_are_seen(beat: PerpetualScheduler) -> None:
    """At the next tick by Celery's own methods, with another number of entries, or another schedule; else in a while."""
    beat.update_from_dict({"entry-1": HOUR})
    assert goes_by(beat, "entry-1", 3600)
    beat.add(name="added", **HOUR)
    assert goes_by(beat, "added", 3600)
    del beat.schedule["added"]
    assert not goes_by(beat, "added", 3600)

    changed = dict(beat.schedule)
    changed["entry-2"] = beat.Entry(name="entry-2", app=beat.app, **SOON)
    beat.schedule = changed
    assert goes_by(beat, "entry-2", 0.3)

    # Replaced in place, in the dict that it has by now: a send writes the file, from which another dict is read. That is
    # seen when the entry is due at the latest, so what is gone is not sent.
    ran = beat.schedule["entry-2"].total_run_count
    beat.schedule["entry-2"] = beat.Entry(name="entry-2", app=beat.app, total_run_count=ran, **HOUR)
    wait_until(lambda: goes_by(beat, "entry-2", 3600), "an entry that was to be due", 10)
    assert beat.schedule["entry-2"].total_run_count == ran
    beat.schedule["entry-3"] = beat.Entry(name="entry-3", app=beat.app, **HOUR)
    wait_until(lambda: goes_by(beat, "entry-3", 3600), "an entry that was replaced in place", 30)


def test_a_move_from_celerys_beat_and_back(
    make_app: Callable[..., Celery], tmp_path: Path, store_redis: redis.Redis
) -> None:
    """The file says when the entries ran last, to us at first and to Celery afterwards.

    One time there is of next week, by a wrong clock, and one has no zone.
    """
    file = str(tmp_path / "schedule")
    hourly = {"task": "app.entry", "schedule": 3600, "options": {"queue": "entries"}}
    app = make_app(beat_schedule=dict.fromkeys(("due", "ran", "ahead"), hourly), result_expires=None)
    Perpetual(app)
    before = PersistentScheduler(app, schedule_filename=file)
    before.schedule["due"].last_run_at = (before.schedule["due"].last_run_at - timedelta(hours=2)).replace(tzinfo=None)
    before.schedule["ahead"].last_run_at += timedelta(days=7)
    for entry in before.schedule.values():
        entry.total_run_count = 7
    before.close()

    ours = PerpetualScheduler(app, schedule_filename=file)
    try:
        for _ in range(3):
            ours.tick()
    finally:
        ours.close()

    assert [message.headers["task"] for message in queued(store_redis, "entries")] == ["app.entry"]
    after = PersistentScheduler(app, schedule_filename=file)
    counts = {name: entry.total_run_count for name, entry in after.schedule.items()}
    ages = [(datetime.now(timezone.utc) - entry.last_run_at).total_seconds() for entry in after.schedule.values()]
    assert counts == {"due": 8, "ran": 7, "ahead": 7}
    assert max(ages) < 60
    assert {type(entry) for entry in after.schedule.values()} == {ScheduleEntry}
    after.close()


def test_a_clock_that_is_set_back_holds_no_entry_up(beat: PerpetualScheduler, store_redis: redis.Redis) -> None:
    """Last runs that lie ahead by then, in this beat and in the store, count as now."""
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    beat.add(name="soon", **SOON)
    beat.tick()
    beat.schedule["soon"].last_run_at = later
    beat._heap = None
    store_redis.hset("perpetual:base", "soon", f"{later.timestamp()} 3")
    beat.tick()
    assert queued(store_redis) == []

    assert beat._perpetual_clock._ahead is not None
    beat._perpetual_clock._ahead += 3600  # as it was in that hour
    wait_until(lambda: (beat.tick(), queued(store_redis))[1], "the entry is sent")


def test_a_clock_is_set_back_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one step or in several; not where it is set ahead, and not by what is no matter."""
    now = time.time()
    clock = OwnClock()

    def is_set_back(seconds: float) -> bool:
        monkeypatch.setattr(time, "time", lambda: now + seconds)
        return clock.is_set_back()

    at = (0, 3600, 3570, 3520, 3500, -3600, 0, -30, -70, -100)
    assert [is_set_back(seconds) for seconds in at] == [
        False, False, False, True, False, True, False, False, True, False,
    ]  # fmt: skip
