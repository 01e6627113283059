"""Routines through the nights in which clocks are changed, and with a store whose clock was ahead: no waiting, each slot is
run at the time that the record says.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab

from celery_perpetual import Retries
from celery_perpetual.routines.storage import Change, read, write
from tests.support.routines import World, after

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")
#: Both clocks are changed twice in it, on different days.
START, END = datetime(2031, 1, 1, tzinfo=BERLIN), datetime(2032, 1, 2, tzinfo=BERLIN)


def test_a_year_of_slots_in_two_zones(make_app: Callable[..., Celery], store_redis: redis.Redis) -> None:
    """A daily crontab has one slot a day at its time of day; an interval has one every twenty-four hours."""
    world = World(make_app("app"), store_redis)
    daily = crontab(hour=2, minute=30)
    world.create("berlin", id="berlin", schedule=daily, timezone="Europe/Berlin", start_at=START, end_at=END)
    world.create("york", id="york", schedule=daily, timezone="America/New_York", start_at=START, end_at=END)
    world.create("interval", id="interval", every=timedelta(days=1), start_at=START, end_at=END)
    found: dict[str, list[datetime]] = {"berlin": [], "york": [], "interval": []}

    while (at := world.routines.next_due_at()) is not None:
        for run in world.routines.run_due(at, run_inline=True):
            assert (run.slot, run.status) == (at, "success")
            found[run.routine_id].append(run.slot)

    assert {world.routines.get(each).state for each in found} == {"completed"}
    for name, zone, left_out, autumn in [
        ("berlin", BERLIN, "2031-03-30T03:30:00+02:00", "2031-10-26T02:30:00+02:00"),
        ("york", NEW_YORK, "2031-03-09T03:30:00-04:00", "2031-11-02T02:30:00-05:00"),
    ]:
        shown = [slot.astimezone(zone) for slot in found[name]]
        first = shown[0].toordinal()
        assert [slot.toordinal() for slot in shown] == list(range(first, first + 366))
        assert [slot.isoformat() for slot in shown if (slot.hour, slot.minute) != (2, 30)] == [left_out]
        assert autumn in {slot.isoformat() for slot in shown}
    steps = {later - earlier for earlier, later in zip(found["interval"], found["interval"][1:], strict=False)}
    assert steps == {timedelta(days=1)}
    assert {slot.astimezone(BERLIN).hour for slot in found["interval"]} == {0, 1}
    assert world.slots == sorted(slot for slots in found.values() for slot in slots)
    world.perpetual.store.close()


HOUR = timedelta(hours=1)


def as_if_ahead(world: World, routine_id: str) -> None:
    """Leave a routine as its last change leaves it while the store's clock is an hour ahead."""
    record, _ = read(world.perpetual.store, routine_id)
    assert record is not None
    ms = int(HOUR.total_seconds() * 1000)
    moved = {
        name: value + ms for name in ("created", "updated", "next", "slot", "last_at", "completed")
        if (value := getattr(record, name)) is not None
    }  # fmt: skip
    changed = record._replace(version=record.version + 1, **moved)
    assert write(world.perpetual.store, [Change(record, changed)]) == ["ok"]


def test_times_that_were_stored_an_hour_ahead(world: World, now: datetime) -> None:
    """One pass of the cycle: what was reckoned from the clock is reckoned anew, what a caller has given stays."""
    grid = after(now, -3000)
    world.create(every=10, id="created")
    world.create(every=10, start_at=grid, id="ran")
    world.create(every=10, start_at=grid, id="caught up", catch_up=True)
    world.fails = 0
    world.run(limit=3)
    world.create(schedule=crontab(minute="*/5"), id="crontab")
    world.create(every=10, id="begun")
    given = after(now, 3 * HOUR.total_seconds() * 1000)
    world.create(every=10, next_run_at=given, id="given")
    world.create(at=given, id="once")
    world.create(every=10, start_at=now, id="paused", paused=True)
    world.create(at=now, id="done")
    world.fails = 1
    world.create(at=after(now, -10), id="failed", retries=Retries(max_attempts=2, backoff=7))
    world.run(limit=1)
    world.routines.run_now("once")
    for each in world.routines.list():
        as_if_ahead(world, each.id)
    assert world.routines.list_due() == []

    assert world.perpetual.cycle().pulled_back == 10

    here = world.now()
    found = {each.id: each for each in world.routines.list()}
    assert all(each.updated_at <= here and each.created_at <= here for each in found.values())
    assert all(each.last_run_at is None or each.last_run_at <= here for each in found.values())
    next_run = {name: each.next_run_at for name, each in found.items()}
    assert next_run["created"] is not None
    for name in ("created", "ran", "begun", "paused", "failed"):
        at = next_run[name]
        assert at is not None
        assert at - here < timedelta(seconds=10), name
    assert (next_run["ran"] - grid) % timedelta(seconds=10) == timedelta(0)  # type: ignore[operator]
    assert next_run["crontab"] - here <= timedelta(minutes=5)  # type: ignore[operator]
    assert (next_run["given"], next_run["once"]) == (given + HOUR, given + HOUR)
    assert next_run["caught up"] == after(grid, 10_000 + HOUR.total_seconds() * 1000)
    (data,) = [
        json.loads(fields["data"]) for _, fields in world.redis.xrange("perpetual:events")
        if fields["event"] == "alert.clock_stepped"
    ]  # fmt: skip
    assert data["routines"] == 10
    assert world.perpetual.cycle().pulled_back == 0


def test_a_record_of_another_release_holds_up_no_other(world: World, now: datetime) -> None:
    """The others are pulled back and forgotten."""
    keys = world.perpetual.store.keys
    world.create(at=now, id="done")
    world.run()
    world.create(every=10, id="ahead")
    as_if_ahead(world, "ahead")
    world.redis.hset(keys.routines, "odd", "no record")
    world.redis.zadd(keys.routines_updated, {"odd": -9e15})
    world.redis.zadd(keys.routines_over, {"done": 2, "odd": 1})

    done = world.perpetual.cycle()

    assert (done.errors, done.pulled_back, done.forgotten) == ({}, 1, 1)
    assert set(world.redis.hkeys(keys.routines)) == {"ahead", "odd"}


def test_a_run_that_began_an_hour_ahead(world: World, now: datetime) -> None:
    """Its end counts from now; a caller that runs one itself, and is gone, is not believed for an hour."""
    for name in ("worker", "caller"):
        world.create(every=10, start_at=after(now, -1), id=name, retries=Retries(max_attempts=2, backoff=0))
    world.routines.pause("caller")
    (run,) = world.routines.run_due()
    as_if_ahead(world, "worker")
    world.routines.resume("caller")
    world.dies = 1
    with pytest.raises(SystemExit):
        world.run()
    as_if_ahead(world, "caller")
    believed = world.redis.zscore("perpetual:routines:inline", "caller")
    assert believed is not None
    world.redis.zadd("perpetual:routines:inline", {"caller": believed + 3_600_000})

    world.ends(run)
    assert world.perpetual.cycle().pulled_back == 2

    here = world.now()
    ended = world.routines.get("worker")
    assert ended.state == "active"
    assert ended.next_run_at - here <= timedelta(seconds=10)  # type: ignore[operator]
    lease = world.perpetual.store.limits.lease_ttl
    believed = world.redis.zscore("perpetual:routines:inline", "caller")
    assert believed is not None
    assert believed <= here.timestamp() * 1000 + lease
