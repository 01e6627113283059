"""Alerts: events that begin once and end once, however many processes see them, and however often."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import events
from celery_perpetual.health import alerts as module
from celery_perpetual.health.alerts import Alerts
from celery_perpetual.times import parse_time, to_ms
from tests.support import wait_until
from tests.support.pretending import lead, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project
    from tests.support.watched_app import WatchedApp

UNIT = "perpetual:app.work"


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def said(one: WatchedApp) -> list[tuple[str, str, dict[str, Any]]]:
    """Name, change and data of every alert of the stream, oldest first."""
    entries = [(entry["event"], json.loads(entry["data"])) for _, entry in one.redis.xrange("perpetual:events")]
    return [(name, data["change"], data) for name, data in entries if name.startswith("alert.") and "change" in data]


def changes(one: WatchedApp) -> list[tuple[str, str]]:
    return [(name, change) for name, change, _ in said(one)]


def test_five_failures_in_a_row_are_said_once_and_so_is_their_end(one: WatchedApp) -> None:
    """A second pass, a new leader and a sixth failure say nothing; the end names since when it was."""
    rows: list[Any] = []
    task = one.task([], next_batch=lambda: 1 / 0 if not rows else [])
    for _ in range(4):
        one.perpetual.poll(task)
    one.redis.zadd("perpetual:due", {UNIT: 9e12})
    assert Alerts(one.perpetual).once() == 0
    one.perpetual.poll(task)

    assert Alerts(one.perpetual).once() == 1
    one.perpetual.poll(task)
    assert [Alerts(one.perpetual).once() for _ in range(2)] == [0, 0]
    rows.append(1)
    one.perpetual.poll(task)
    assert [Alerts(one.perpetual).once() for _ in range(2)] == [1, 0]

    begun, ended = said(one)
    assert [begun[:2], ended[:2]] == [("alert.unit_failing", "begun"), ("alert.unit_failing", "ended")]
    assert (begun[2]["unit"], begun[2]["failures"], begun[2]["since"]) == (UNIT, 5, ended[2]["since"])
    assert begun[2]["help"] == "celery -A proj perpetual why app.work"
    assert ended[2]["at"] > begun[2]["at"]
    assert one.redis.hlen("perpetual:alerts") == 0


def test_each_kind_begins_and_ends(one: WatchedApp) -> None:
    """Silent, slow, a late worker, a lost one, a store near its limit that may evict, and no leader."""
    one.perpetual.poll(one.task([], next_batch=lambda: time.sleep(0.02)))
    lead(one.perpetual, seconds_ago=1000)
    now = one.perpetual.store.now()
    one.redis.zadd("perpetual:due", {UNIT: now - 400_000})
    one.redis.hset(f"perpetual:u:{UNIT}", "spec", "every 1 ms")
    one.perpetual.store.redis.execute_command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    report(one.perpetual, "slow@host", ago=40)
    report(one.perpetual, "dead@host", ago=100)
    try:
        assert Alerts(one.perpetual).once() == 5
    finally:
        one.perpetual.store.redis.execute_command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    wanted = ["eviction_policy", "poll_budget", "unit_silent", "worker_late", "worker_lost"]
    assert sorted(changes(one)) == [(f"alert.{kind}", "begun") for kind in wanted]

    one.redis.zadd("perpetual:due", {UNIT: now + 400_000})
    one.redis.hset(f"perpetual:u:{UNIT}", "spec", "every 3600000 ms")
    one.redis.delete("perpetual:workers")
    assert Alerts(one.perpetual).once() == 5
    assert sorted(changes(one)[5:]) == [(f"alert.{kind}", "ended") for kind in wanted]
    one.redis.delete("perpetual:leader", "perpetual:leader:info")
    one.redis.zadd("perpetual:marks", {"host/1/a": now - 31_000})
    module.watch_leader(one.perpetual, one.perpetual.store)
    module.watch_leader(one.perpetual, one.perpetual.store)
    assert changes(one)[10:] == [("alert.no_leader", "begun")]
    lead(one.perpetual)
    assert Alerts(one.perpetual).once() == 1
    assert changes(one)[11:] == [("alert.no_leader", "ended")]


def test_a_unit_whose_queue_is_paused_is_not_silent(one: WatchedApp) -> None:
    """It is when the pause is over."""
    one.perpetual.poll(one.task([]))
    lead(one.perpetual, seconds_ago=1000)
    one.redis.zadd("perpetual:due", {UNIT: one.perpetual.store.now() - 400_000})
    one.perpetual.pause(queue="celery")
    assert Alerts(one.perpetual).once() == 0
    assert one.perpetual.resume(queue="celery", from_="kept")
    Alerts(one.perpetual).once()
    assert changes(one) == [("alert.unit_silent", "begun")]


def test_a_beat_that_was_never_there_or_left_just_now_is_no_alert(one: WatchedApp) -> None:
    """An app may use leases without a beat; a restart takes seconds."""
    module.watch_leader(one.perpetual, one.perpetual.store)
    one.redis.zadd("perpetual:marks", {"host/1/a": one.perpetual.store.now() - 29_000})
    module.watch_leader(one.perpetual, one.perpetual.store)

    assert said(one) == []
    # The clock was set back since the beat was there.
    one.redis.zadd("perpetual:marks", {"host/1/a": one.perpetual.store.now() + 3_600_000})
    module.watch_leader(one.perpetual, one.perpetual.store)
    assert changes(one) == [("alert.no_leader", "begun")]


def test_a_seam_that_is_not_as_known_is_an_alert(one: WatchedApp) -> None:
    class Seam:
        name, without = "tracers", "tasks run without leases"

    one.perpetual.unknown_seams = lambda: [(Seam(), "Task.run is missing")]

    assert [Alerts(one.perpetual).once() for _ in range(2)] == [1, 0]
    assert said(one)[0][2]["seam"] == "tracers"


def test_a_finding_that_does_not_know_since_when_has_the_time_of_its_alert(one: WatchedApp) -> None:
    """A poll that takes its whole interval did so before, and the outcome says nothing of that."""
    one.perpetual.poll(one.task([], next_batch=lambda: time.sleep(0.02)))
    one.redis.hset(f"perpetual:u:{UNIT}", "spec", "every 1 ms")
    one.redis.zadd("perpetual:due", {UNIT: 9e12})

    def since() -> list[Any]:
        found = [*one.perpetual.status().findings, *one.perpetual.check()]
        return [each.since for each in found if each.kind == "poll_budget"]

    assert since() == [None, None]
    Alerts(one.perpetual).once()
    (begun,) = said(one)
    assert [to_ms(at) for at in since()] == [to_ms(parse_time(begun[2]["since"]))] * 2


def test_a_store_that_fills_up_is_said_once_and_so_is_its_room(one: WatchedApp) -> None:
    """A real server: at nine tenths of its memory limit the alert begins, while it still takes data; with room it ends.

    More that fills it, a second pass and a new leader say nothing.
    """
    redis = one.perpetual.store.redis
    redis.setrange(
        "filling", 50_000_000, b"x"
    )  # a long argument would leave a buffer that the server frees at any time

    def fill(share: float) -> None:
        redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] / share))

    try:
        fill(0.9)
        assert [Alerts(one.perpetual).once() for _ in range(2)] == [1, 0]
        assert one.perpetual.status().findings[0].since is not None
        fill(0.93)
        assert Alerts(one.perpetual).once() == 0
        redis.delete("filling")
        assert [Alerts(one.perpetual).once() for _ in range(2)] == [1, 0]
    finally:
        redis.config_set("maxmemory", 0)

    begun, ended = said(one)
    assert [begun[:2], ended[:2]] == [("alert.store_memory", "begun"), ("alert.store_memory", "ended")]
    assert "(90%)" in begun[2]["evidence"]
    assert begun[2]["help"].startswith("redis-cli CONFIG SET maxmemory")
    assert ended[2]["since"] == begun[2]["since"]


def test_a_pass_reads_a_part_of_many_units_and_those_that_matter(
    one: WatchedApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of 3 000 units fails: it is found within one round, and its end is seen by the very next pass."""
    redis, now = one.perpetual.store.redis, one.perpetual.store.now()
    names = [f"perpetual:app.work:{n}" for n in range(3000)]
    redis.zadd("perpetual:units", dict.fromkeys(names, now))
    redis.zadd("perpetual:due", dict.fromkeys(names, 9e12))
    redis.hset("perpetual:u:perpetual:app.work:1234", "attempt", 7)
    read: list[int] = []
    usual = module.unit_facts
    monkeypatch.setattr(
        module,
        "unit_facts",
        lambda store, names, *args, **more: read.append(len(names)) or usual(store, names, *args, **more),
    )
    alerts = Alerts(one.perpetual)

    for _ in range(30):
        alerts.once()
    assert changes(one) == [("alert.unit_failing", "begun")]
    assert sum(read) >= len(names)
    assert max(read) <= 2 * module.UNITS_AT_ONCE
    redis.hdel("perpetual:u:perpetual:app.work:1234", "attempt")
    assert alerts.once() == 1


SOURCE = """
@app.task(base=PerpetualTask, poll_every=0.2, next_batch=lambda: 1 / 0,
          perpetual_options=PerpetualOptions(error_rules=[ErrorRule(ZeroDivisionError, backoff=(0.05, 0.05), max_attempts=-1)]))
def bad(): ...
"""


def test_the_leader_says_it_in_stream_and_log_and_a_worker_that_no_beat_leads(project: Callable[..., Project]) -> None:
    """A unit fails five times; beat is killed, restarted: nothing of that is said twice, and no beat is said in between."""
    proj = project(
        SOURCE, perpetual_cycle_interval=0.2, perpetual_leader_ttl=3, perpetual_heartbeat_interval=0.3,
    )  # fmt: skip
    proj.worker(concurrency=1).ready()
    beat = proj.beat().ready()

    begun = beat.wait_for_event(events.ALERT_BEGUN)
    beat.kill9()

    def in_stream() -> list[tuple[str, str]]:
        entries = [(entry["event"], json.loads(entry["data"])) for _, entry in proj.redis.xrange("perpetual:events")]
        return [(name, data["change"]) for name, data in entries if name.startswith("alert.")]

    assert begun["alert"] == "unit_failing perpetual:proj.bad"
    wait_until(lambda: ("alert.no_leader", "begun") in in_stream(), "a worker says that no beat leads", 20)
    second = proj.beat().ready()
    second.wait_for_event(events.ALERT_ENDED)
    assert in_stream() == [("alert.unit_failing", "begun"), ("alert.no_leader", "begun"), ("alert.no_leader", "ended")]
