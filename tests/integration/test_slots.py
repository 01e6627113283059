"""When polls take place: on a grid, by one beat, and once for what was missed."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from celery_perpetual.events import CONTRACT_WARNING, LEADER_STANDBY
from tests.support import wait_until
from tests.support.broker import queued
from tests.support.clock import CLOCK, MOST_LAG, calls, check_grid, elected
from tests.support.console import Console
from tests.support.stream_events import poll_events, polls_behind, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


def test_one_beat_polls_each_unit_at_its_slots(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """At once and then on a grid; the hourly unit once; a unit that raises holds up none; half a contract is shown."""
    proj = project(
        CLOCK
        + """
@perpetual_task("hourly", 3600)
def hourly(poll):
    return [Item(("one",), {"deep": {"er": [1, None]}}, key=1), ("two",)]

@perpetual_task("bad", 0.5)
def bad(poll):
    raise OSError("no route to host")

@perpetual_task("often", 0.25)
def often(poll):
    return [Item((poll.slot.isoformat(),), key=False)] if poll.late_by < 0 else []

@perpetual_task("delta", datetime.timedelta(seconds=0.5))
def delta(poll):
    return None

from celery.schedules import crontab, schedule

@perpetual_task("yearly", crontab(minute=0, hour=0, day_of_month=1, month_of_year=1))
def yearly(poll):
    return []

@perpetual_task("scheduled", schedule(run_every=1800))
def scheduled(poll):
    return []

@perpetual_task("off", 0.25, perpetual_options=PerpetualOptions(enabled=False))
def off(poll):
    return []

@perpetual_task("off_too", 0.25)
def off_too(poll):
    return []

@app.task(base=PerpetualTask, poll_every=1)
def only_every():
    pass

@app.task(base=PerpetualTask, next_batch=lambda: ledger.record("proj.only_batch", "polled"))
def only_batch():
    pass
""",
        perpetual_disabled=["proj.off_too"],
        perpetual_error_policies={"degraded": (1_000_000, 1_000_000)},
    )
    beat = proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= 12, "one unit was polled often")

    first = {poll.data["task"]: poll for poll in reversed(poll_events(store_redis))}
    assert first.keys() == {f"proj.{name}" for name in ("hourly", "bad", "often", "delta", "scheduled")}
    assert max(poll.written for poll in first.values()) - elected(store_redis) < MOST_LAG
    assert {name: calls(proj, name) for name in ("hourly", "bad", "scheduled", "yearly", "off", "off_too")} == {
        "hourly": ["schedule"], "bad": ["schedule"], "scheduled": ["schedule"], "yearly": [], "off": [], "off_too": [],
    }  # fmt: skip
    assert calls(proj, "only_batch") == []
    check_grid(poll_events(store_redis, "proj.often"), 0.25)
    check_grid(poll_events(store_redis, "proj.delta"), 0.5)
    assert [(m.task, m.args, m.kwargs) for m in queued(store_redis)] == [
        ("proj.hourly", ["one"], {"deep": {"er": [1, None]}}),
        ("proj.hourly", ["two"], {}),
    ]
    assert {event["warning"] for event in beat.events(CONTRACT_WARNING)} == {
        "task proj.only_every has poll_every but no next_batch, so it is not polled; add next_batch",
        "task proj.only_batch has next_batch but no poll_every, so it is not polled; add poll_every",
    }
    with Console(proj) as console:
        assert beat.terminate()[0] == 0
        (folded,) = console("perpetual.polls('proj.often')")
        events = poll_events(store_redis, "proj.often")
        assert folded["status"] == "empty"
        assert 0 <= folded["repeated"] - polls_behind(events) < 10
        units = {unit["task"].removeprefix("proj."): unit for unit in console("perpetual.units()")}
    assert {name: unit["state"] for name, unit in units.items()} == {
        "hourly": "active", "bad": "backing_off", "often": "active", "delta": "active", "scheduled": "active",
        "yearly": "active", "off": "disabled", "off_too": "disabled",
    }  # fmt: skip
    assert seconds(units["hourly"]["next_poll_at"]) == first["proj.hourly"].slot + 3600
    assert units["hourly"]["in_flight"] == 2
    new_year = datetime.fromtimestamp(seconds(units["yearly"]["next_poll_at"]), timezone.utc)
    assert (new_year.month, new_year.day, new_year.hour, new_year.minute) == (1, 1, 0, 0)
    assert units["bad"]["last_poll"]["error"] == "OSError: no route to host"


def test_a_missed_stretch_gives_one_poll(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """After a stretch without beat there is one poll, at the latest slot, and the grid goes on; a restart is none."""
    proj = project(
        CLOCK
        + """
@perpetual_task("hourly", 3600)
def hourly(poll):
    return []

@perpetual_task("often", 0.3)
def often(poll):
    return []
"""
    )
    beat = proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= 3, "the unit is polled")
    assert beat.terminate()[0] == 0
    before = poll_events(store_redis, "proj.often")
    # The missed stretch: several intervals.
    time.sleep(1.5)
    proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.often")) >= len(before) + 4, "the unit is polled again")

    polls = poll_events(store_redis, "proj.often")
    check_grid(polls, 0.3)
    after = polls[len(before) :]
    # Of the stretch, what lies behind the last slot before it.
    assert after[0].slot - before[-1].slot > 1.5 - 0.3
    assert elected(store_redis) < after[0].written < elected(store_redis) + MOST_LAG
    assert after[1].slot - after[0].slot < 0.301 + MOST_LAG
    assert calls(proj, "hourly") == ["schedule"]
    assert statuses(store_redis, "proj.hourly") == ["empty"]


def test_a_standby_polls_nothing_until_it_leads(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Only the leader calls next_batch; when it ends the standby goes on with the same slots."""
    proj = project(CLOCK + '@perpetual_task("often", 0.3)\ndef often(poll):\n    return []\n')
    leader = proj.beat().ready()
    wait_until(proj.rows, "the unit is polled")
    standby = proj.beat().ready()
    standby.wait_for_event(LEADER_STANDBY)
    wait_until(lambda: len(proj.rows()) >= 8, "the unit is polled for some time")
    assert {row.pid for row in proj.rows()} == {leader.pid}

    leader.terminate()
    wait_until(lambda: {row.pid for row in proj.rows()} == {leader.pid, standby.pid}, "the standby polls", timeout=10)

    assert standby.alive
    check_grid(poll_events(store_redis, "proj.often"), 0.3)
