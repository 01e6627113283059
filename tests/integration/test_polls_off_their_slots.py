"""Polls that move away from their slots: by pauses, deferring, draining and calls by hand."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from celery_perpetual.events import POLL_PAUSED
from tests.support import wait_until
from tests.support.broker import queued
from tests.support.clock import CLOCK, MOST_LAG, calls, check_grid
from tests.support.console import Console
from tests.support.stream_events import poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


def test_a_paused_scope_is_not_polled_until_it_is_resumed(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A paused scope is not polled, for as long as it lasts; resumed it is, at once or at its next slot."""
    proj = project(
        CLOCK
        + """
@perpetual_task("one", 0.3)
def one(poll):
    return []

@perpetual_task("two", 0.3)
def two(poll):
    return []

@perpetual_task("hourly", 3600)
def hourly(poll):
    return []

@perpetual_task("stops", 0.3)
def stops(poll):
    return Pause("the contract has ended")
"""
    )
    beat = proj.beat().ready()
    wait_until(lambda: len(calls(proj, "two")) >= 2, "the units are polled")
    assert beat.wait_for_event(POLL_PAUSED)["reason"] == "the contract has ended"

    def polls_while(stretch: float) -> dict[str, int]:
        # The stretch in which something must not happen.
        time.sleep(0.1)
        before = {name: len(calls(proj, name)) for name in ("one", "two", "hourly", "stops")}
        time.sleep(stretch)
        return {name: len(calls(proj, name)) - count for name, count in before.items()}

    with Console(proj) as console:
        state = "{u.task.removeprefix('proj.'): (u.state, u.reason) for u in perpetual.units()}"
        paused = console("perpetual.pause('proj.one', reason='moving house')")
        assert (paused["scope"], paused["reason"]) == ("perpetual:proj.one", "moving house")
        counts = polls_while(1.0)
        assert (counts["one"], counts["stops"]) == (0, 0)
        assert counts["two"] >= 2
        states = console(state)
        assert states["one"] == ["paused", "moving house"]
        assert states["stops"] == ["paused", "the contract has ended"]
        assert states["two"] == ["active", None]
        assert statuses(store_redis, "proj.stops") == ["paused"]
        assert "moving house" in console("perpetual.why('proj.one')")["reasons"][0]["evidence"]
        assert console("perpetual.resume('proj.two')") is False

        console("perpetual.pause('proj.hourly')")
        assert console("perpetual.resume('proj.hourly', from_='kept')") is True
        assert console("perpetual.resume('proj.one')") is True
        assert console("perpetual.resume('proj.stops')") is True
        wait_until(lambda: len(calls(proj, "stops")) == 2, "it is polled again")
        wait_until(lambda: "resume" in calls(proj, "one"), "it is polled at once")
        assert calls(proj, "hourly") == ["schedule"]

        until = datetime.now(timezone.utc) + timedelta(seconds=1.5)
        paused = console(
            f"perpetual.pause(everything=True, until=datetime.datetime.fromisoformat({until.isoformat()!r}))"
        )
        assert paused["scope"] == "*"
        assert abs(seconds(paused["until"]) - until.timestamp()) < 0.002
        assert polls_while(0.8) == {"one": 0, "two": 0, "hourly": 0, "stops": 0}
        assert {u[0] for u in console(state).values()} == {"paused"}
        wait_until(lambda: poll_events(store_redis, "proj.two")[-1].slot > until.timestamp(), "the pause is over")
        assert console(state)["two"] == ["active", None]
        assert not [
            p for p in poll_events(store_redis) if seconds(paused["at"]) + 0.1 < p.slot < until.timestamp() - 0.1
        ]

        console("perpetual.pause(everything=True, reason='all')")
        console("perpetual.pause('proj.hourly', reason='this one too')")
        assert console("perpetual.resume(everything=True)") is True
        wait_until(lambda: len(calls(proj, "two")) > 6, "the rest goes on")
        assert console(state)["hourly"] == ["paused", "this one too"]
        assert console("perpetual.resume('proj.hourly')") is True
        wait_until(lambda: calls(proj, "hourly") == ["schedule", "resume"], "the hourly unit is polled at once")
    check_grid([poll for poll in poll_events(store_redis, "proj.two") if poll.data["trigger"] == "schedule"], 0.3)
    told = [fields["event"] for _, fields in store_redis.xrange("perpetual:events") if fields["event"] != "poll"]
    assert (told.count("pause"), told.count("resume")) == (7, 5)


def test_a_deferred_unit_and_one_with_more_to_read_are_polled_off_the_grid(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A deferred unit is polled at its time, then on its grid; one with more to read at once, not for duplicates."""
    proj = project(
        CLOCK
        + """
@perpetual_task("defers", 4)
def defers(poll):
    ledger.record("attempt", poll.attempt)
    return Defer(1.25) if poll.trigger == "schedule" and poll.last_polled_at is None else []

@perpetual_task("defers_delta", 3600)
def defers_delta(poll):
    return Defer(datetime.timedelta(milliseconds=700)) if poll.trigger == "schedule" else []

@perpetual_task("reads", 3600)
def reads(poll):
    at = poll.cursor or 0
    return Batch([(number,) for number in range(at, at + 2)], cursor=at + 2, more=at < 22)

@perpetual_task("fills", 3600, perpetual_options=PerpetualOptions(limit=3))
def fills(poll):
    left = [number for number in range(7) if str(number) not in poll.keys()]
    return [Item((number,), key=number) for number in left[:poll.limit]]

@perpetual_task("repeats", 3600)
def repeats(poll):
    return Batch([Item((1,), key=1)], more=True)
"""
    )
    proj.beat().ready()
    wait_until(lambda: len(calls(proj, "defers")) >= 3, "the deferred unit is back on its grid")
    wait_until(lambda: len(statuses(store_redis, "proj.reads")) >= 12, "everything is read")

    first, second, third = poll_events(store_redis, "proj.defers")[:3]
    assert [poll.status for poll in (first, second, third)] == ["deferred", "empty", "empty"]
    assert calls(proj, "defers") == ["schedule", "defer", "schedule"]
    assert abs(second.slot - first.written - 1.25) < 0.01
    assert 0 <= seconds(second.data["started_at"]) - second.slot < MOST_LAG
    assert abs(third.slot - first.slot - 4) < 0.002
    assert {row.what for row in proj.rows() if row.id == "attempt"} == {"0"}
    first, second = poll_events(store_redis, "proj.defers_delta")
    assert abs(second.slot - first.written - 0.7) < 0.01
    assert calls(proj, "reads") == ["schedule"] + ["drain"] * 11
    assert [m.args[0] for m in queued(store_redis) if m.task == "proj.reads"] == list(range(24))
    assert calls(proj, "fills") == ["schedule", "drain", "drain"]
    assert [m.args[0] for m in queued(store_redis) if m.task == "proj.fills"] == list(range(7))
    assert statuses(store_redis, "proj.repeats") == ["enqueued", "empty"]
    drained = poll_events(store_redis, "proj.reads")
    assert drained[-1].written - drained[0].written < MOST_LAG


def test_a_poll_by_hand_at_a_slot_costs_that_slot_only(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Slots that come while a poll by hand is open give one poll when it has ended; the cadence does not move."""
    proj = project(
        CLOCK
        + """
@perpetual_task("often", 1, poll_timeout=30)
def often(poll):
    while poll.trigger == "manual" and not os.path.exists("go"):
        time.sleep(0.05)
    return []
"""
    )
    proj.beat().ready()
    with Console(proj) as console:
        console("perpetual.units()")
        count = len(statuses(store_redis, "proj.often"))
        # Right after a slot, so that the poll by hand does not meet a poll of beat.
        wait_until(lambda: len(statuses(store_redis, "proj.often")) > count, "the unit is polled")
        console.send("perpetual.poll('proj.often')")
        wait_until(lambda: "manual" in calls(proj, "often"), "the poll by hand has begun")
        # Two slots pass meanwhile.
        time.sleep(2)
        proj.write("go", "")
        assert console.answer()["status"] == "empty"
    count = len(calls(proj, "often"))
    wait_until(lambda: len(calls(proj, "often")) >= count + 2, "the unit is polled at its slots", timeout=6)
    slots = [poll.slot for poll in poll_events(store_redis, "proj.often") if poll.data["trigger"] == "schedule"]
    assert all(abs((slot - slots[0] + 0.5) % 1 - 0.5) < 0.002 for slot in slots)
    assert len(set(slots)) == len(slots)
