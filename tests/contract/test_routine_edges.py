"""Cases that come together seldom: limits with retries, a month away, two changes at once, a store that is full half-way."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import IdempotencyConflict, Perpetual, Retries, StaleVersion, StoreUnavailable
from tests.support.routines import after
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from datetime import datetime

    from tests.support.routines import World

MONTH = 30 * 86_400_000


def test_retries_belong_to_their_slot(world: World, now: datetime) -> None:
    """``max_runs`` counts slots and no attempts, and a slot is tried again also after ``end_at``; then there is none."""
    twice = Retries(max_attempts=2)
    world.create(id="runs", every=3600, start_at=after(now, -7_200_000), max_runs=1, retries=twice)
    world.create(id="ends", every=3600, start_at=after(now, -1000), end_at=after(now, 50), retries=twice)
    world.fails = 2

    first = world.run()
    assert [(run.status, run.attempt) for run in first] == [("failure", 1)] * 2
    assert {each.state for each in world.routines.list()} == {"retry_waiting"}
    wait_until(lambda: world.now() > after(now, 60), "end_at is over")
    second = world.run()

    slots = {run.routine_id: run.slot for run in first}
    assert {run.routine_id: run.slot for run in second} == slots
    assert [(run.status, run.attempt) for run in second] == [("success", 2)] * 2
    assert [(each.state, each.run_count, each.next_run_at) for each in world.routines.list()] == [
        ("completed", 1, None)
    ] * 2
    assert world.run() == []


def test_a_month_without_beat_is_caught_up_as_the_routine_says(world: World, now: datetime) -> None:
    """Without ``catch_up`` one slot is run, and the next one is ahead; with it the newest 100, and the others are counted."""
    start = after(now, -MONTH)
    world.create(id="latest", every=60, start_at=start)
    world.create(id="each", every=60, start_at=start, catch_up=True)
    world.create(id="all", every=60, start_at=start, catch_up=True, max_catch_up=100_000)

    assert {run.routine_id: run.slot for run in world.run()} == dict.fromkeys(("latest", "each", "all"), start)

    latest, each, everything = (world.routines.get(name) for name in ("latest", "each", "all"))
    assert latest.next_run_at is not None
    assert each.next_run_at is not None
    assert now < latest.next_run_at <= after(world.now(), 60_000)
    assert latest.dropped_count == 0
    newest = after(start, (world.now() - start) // timedelta(minutes=1) * 60_000)
    assert each.next_run_at in (after(newest, -99 * 60_000), after(newest, -100 * 60_000))
    assert each.dropped_count == (each.next_run_at - start) // timedelta(minutes=1) - 1
    assert (everything.next_run_at, everything.dropped_count) == (after(start, 60_000), 0)


def test_two_change_one_routine_at_once(world: World) -> None:
    """No change is lost; of those that name a version one counts."""
    world.create(id="r", every=60)

    def change(n: int) -> int:
        return world.routines.update("r", metadata={"n": n}).version

    def change_first(n: int) -> str:
        try:
            world.routines.update("r", if_version=17, metadata={"first": n})
        except StaleVersion:
            return "stale"
        return "done"

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(change, range(16))) == list(range(2, 18))
        assert sorted(pool.map(change_first, range(4))) == ["done", *["stale"] * 3]
    assert world.routines.get("r").version == 18


def test_one_call_in_other_words_is_the_same_call(world: World, now: datetime) -> None:
    """The order of names, another zone for the same moment, another form of a duration, a default that is written out."""
    zone = timezone(timedelta(hours=5))
    routines = world.routines
    said: dict[str, Any] = {"every": 3600, "start_at": now, "idempotency_key": "k", "metadata": {"x": 1, "y": 2}}
    first = routines.create("app.note", ("a",), {"b": 1, "c": {"d": 1, "e": 2}}, **said)
    other = {
        **said, "every": timedelta(hours=1), "start_at": now.astimezone(zone), "metadata": {"y": 2, "x": 1},
        "retries": Retries(max_attempts=1, backoff=0), "catch_up": False, "paused": False, "options": {},
    }  # fmt: skip

    again = routines.create(world.app.tasks["app.note"], ["a"], {"c": {"e": 2, "d": 1}, "b": 1}, **other)

    assert (again.id, again.created) == (first.id, False)
    for different in (
        {"every": 3601},
        {"start_at": after(now, 1)},
        {"metadata": {}},
        {"paused": True},
        {"max_runs": 3},
    ):
        with pytest.raises(IdempotencyConflict):
            routines.create("app.note", ("a",), {"b": 1, "c": {"d": 1, "e": 2}}, **{**said, **different})
    with pytest.raises(IdempotencyConflict):
        routines.create("app.note", ("a",), {"b": 1, "c": {"d": 1, "e": 3}}, **said)


def test_a_store_that_is_full_half_way(world: World, now: datetime) -> None:
    """Whole steps are there, and no part of one; the same call finishes the work when there is room again."""
    fields = [
        {"task": "app.note", "args": ("x" * 200, n), "at": after(now, MONTH), "idempotency_key": f"k{n}"}
        for n in range(5000)
    ]  # fmt: skip
    world.routines.create_many(fields[:500])
    room = world.redis.info("memory")["used_memory"] + 1_000_000
    world.redis.config_set("maxmemory", str(room))
    try:
        with pytest.raises(StoreUnavailable):
            world.routines.create_many(fields)
        there = len(world.routines.list())
    finally:
        world.redis.config_set("maxmemory", "0")

    assert 500 <= there < 5000
    assert there % 500 == 0
    made = world.routines.create_many(fields)
    assert [each.created for each in made] == [n >= there for n in range(5000)]
    assert len({each.id for each in made}) == len(world.routines.list()) == 5000
    assert len(world.events("routine.created")) == 5000


def test_the_end_of_a_run_by_hand_of_a_routine_that_is_gone(world: World, now: datetime) -> None:
    """Another routine that has its id since does not get its result."""
    world.create(id="r", at=after(now, MONTH))
    run = world.routines.run_now("r")
    world.routines.clear()
    begun = world.now()
    wait_until(lambda: world.now() > begun, "it is later than the run")
    again = world.create(id="r", at=after(now, MONTH))

    world.ends(run, result=["old"])

    assert world.routines.get("r") == again


@pytest.mark.long
def test_many_that_are_passed_over_hold_up_no_other(world: World, now: datetime) -> None:
    """More records of another release than one command of a script may name."""
    store = world.perpetual.store
    strange = {f"strange{n}": after(now, -1).timestamp() * 1000 for n in range(9000)}
    store.redis.hset(store.keys.routines, mapping=dict.fromkeys(strange, "9 of another release"))
    store.redis.zadd(store.keys.routines_due, strange)
    store.redis.zadd(store.keys.routines_updated, {"strange0": -9e15})
    world.create(id="r", at=now)

    assert [each.id for each in world.routines.list()] == [each.id for each in world.routines.list_due()] == ["r"]
    assert [run.routine_id for run in world.routines.run_due()] == ["r"]
    world.create(id="here", at=now)
    store.redis.zrem(store.keys.routines_due, *list(strange)[200:])
    assert [run.routine_id for run in Perpetual(world.app).routines.run_due(run_inline=True)] == ["here"]
