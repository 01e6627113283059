"""`status` and `doctor`: whether all is well, what is not, since when, and what helps."""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from celery_perpetual import Item
from celery_perpetual.cli import perpetual as group
from celery_perpetual.embedded import EmbeddedServer
from celery_perpetual.pauses import Scope
from tests.support.contract import finish
from tests.support.pretending import lead, report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_perpetual.operations.status import Status
    from tests.support.watched_app import WatchedApp


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def kinds(found: Status) -> set[str]:
    return {finding.kind for finding in found.findings}


def area(found: Status, name: str) -> Any:
    return next(each for each in found.areas if each.name == name)


def test_status_is_well_where_a_beat_leads_and_a_worker_reports(one: WatchedApp) -> None:
    """Five parts; its dict is JSON; the store of these tests keeps nothing on disk, and that is all it finds."""
    one.task([])
    lead(one.perpetual)
    report(one.perpetual)

    found = one.perpetual.status()

    assert [each.name for each in found.areas] == ["store", "beat", "units", "work", "workers"]
    assert kinds(found) == {"persistence"}
    assert area(found, "units").facts == {"units": 1, "active": 1}
    assert area(found, "workers").summary == "1, 0 of 2 places taken"
    assert json.loads(json.dumps(found.to_dict()))["areas"][1]["facts"]["leader"] == "host:1"
    assert (found.state, found.exit_code) == ("degraded", 1)


def test_without_a_leader_it_is_down_since_the_last_beat_was_seen(one: WatchedApp) -> None:
    one.task([])
    seen = one.perpetual.store.now() - 240_000
    one.perpetual.store.redis.zadd(one.perpetual.store.keys.marks, {"host/1/a": seen})

    found = one.perpetual.status()

    (finding,) = area(found, "beat").findings
    assert (found.state, area(found, "beat").state) == ("down", "down")
    assert finding.help == "celery -A proj beat"
    assert finding.since is not None
    assert round(finding.since.timestamp() * 1000) == seen


def test_a_silent_unit_is_overdue_since_the_leader_began_at_the_earliest(one: WatchedApp) -> None:
    """Overdue by less than three intervals it is not; a leader that has just begun needs a moment."""
    task = one.task([])
    lead(one.perpetual, seconds_ago=5)
    keys, redis, now = one.perpetual.store.keys, one.perpetual.store.redis, one.perpetual.store.now()
    redis.hset(keys.unit("perpetual:app.work"), "spec", "every 10000 ms")
    redis.zadd(keys.due, {"perpetual:app.work": now - 100_000})

    assert "unit_silent" not in kinds(one.perpetual.status())
    lead(one.perpetual, seconds_ago=1000)
    (finding,) = [each for each in one.perpetual.status().findings if each.kind == "unit_silent"]

    assert finding.since is not None
    assert round(finding.since.timestamp() * 1000) == now - 100_000
    assert finding.about == {"unit": "perpetual:app.work"}
    one.perpetual.pause(task)
    assert "unit_silent" not in kinds(one.perpetual.status())


def test_polls_that_fail_or_take_their_whole_interval_are_named(one: WatchedApp) -> None:
    """Five failures in a row are an error; a poll that takes 85 % of its interval is a warning, one of 120 % an error."""
    rows: list[Any] = []
    task = one.task(rows, next_batch=lambda: 1 / 0 if not rows else time.sleep(0.05))
    lead(one.perpetual)
    for failures in range(1, 6):
        one.perpetual.poll(task)
        (finding,) = [each for each in one.perpetual.status().findings if each.kind == "unit_failing"]
        assert finding.level == ("error" if failures == 5 else "warning")
    assert "5 polls in a row failed, the last: ZeroDivisionError" in finding.evidence
    assert finding.help == "celery -A proj perpetual why app.work"

    rows.append(1)
    outcome = one.perpetual.poll(task)
    took = (outcome.finished_at - outcome.started_at).total_seconds() * 1000
    for share, level in ((0.5, []), (0.85, ["warning"]), (1.2, ["error"])):
        # The poll cannot be made to take just so long, so the interval is.
        spec = f"every {round(took / share)} ms"
        one.perpetual.store.redis.hset(one.perpetual.store.keys.unit("perpetual:app.work"), "spec", spec)
        assert [each.level for each in one.perpetual.status().findings if each.kind == "poll_budget"] == level


def test_a_worker_that_is_late_and_one_that_is_gone_are_named(one: WatchedApp) -> None:
    one.task([])
    lead(one.perpetual)
    report(one.perpetual, "slow@host", ago=40)
    report(one.perpetual, "dead@host", ago=100)

    found = {each.kind: each for each in one.perpetual.status().findings}

    assert found["worker_late"].evidence == "worker slow@host has not reported for 40 s"
    assert found["worker_lost"].evidence == "worker dead@host is gone, and its tasks are not resent yet"


@pytest.mark.parametrize(
    ("info", "kind"),
    [
        ({"queues": ["other"]}, "queue_without_consumer"),
        ({"active": 2}, "workers_busy"),
        ({"active": 1}, "queue_not_consumed"),
    ],
)
def test_what_keeps_work_waiting_is_told_apart(one: WatchedApp, info: dict[str, Any], kind: str) -> None:
    """No consumer, consumers without a place, and consumers that have places and do not consume."""
    store = one.perpetual.store
    outcome = one.perpetual.poll(one.task([Item((n,), key=n) for n in range(3)]))
    lead(one.perpetual)
    report(one.perpetual, **info)
    assert not kinds(one.perpetual.status()) & {"queue_without_consumer", "workers_busy", "queue_not_consumed"}

    from celery_perpetual.health import queues
    from celery_perpetual.health.reading import Reading

    reading = Reading(one.perpetual)
    reading.now = store.now() + 200_000  # the cached fact: the batch is three minutes old
    waiting = queues.waiting_items(reading)
    (finding,) = queues.queue_findings(reading, waiting.values())

    assert finding.kind == kind
    assert finding.about == {"queue": "celery"}
    assert "3 items wait in the queue 'celery'" in finding.evidence
    for task_id in outcome.task_ids:
        finish(one.perpetual, task_id)
    assert queues.waiting_items(reading) == {}


@pytest.fixture
def small_store(watched_app: Callable[..., WatchedApp]) -> Iterator[tuple[WatchedApp, EmbeddedServer]]:
    with EmbeddedServer() as server:
        one = watched_app(perpetual_store_url=server.url)
        one.task([])
        yield one, server


def test_a_store_that_is_full_evicts_or_is_away_is_named(small_store: tuple[WatchedApp, EmbeddedServer]) -> None:
    """Each with its own finding and what helps; none of them raises."""
    one, server = small_store
    redis = one.perpetual.store.redis
    used = int(redis.info("memory")["used_memory"])

    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("maxmemory", int(used / 0.9))
    assert {"store_memory", "eviction_policy"} <= kinds(one.perpetual.status())
    redis.config_set("maxmemory-policy", "noeviction")
    redis.config_set("maxmemory", 1)
    found = one.perpetual.status()
    assert "store_refuses" in kinds(found)
    assert found.state == "down"
    redis.config_set("maxmemory", 0)
    assert not kinds(one.perpetual.status()) & {"store_refuses", "store_memory", "eviction_policy"}
    server.stop()
    found = one.perpetual.status()
    assert (found.state, kinds(found)) == ("down", {"store_unreachable"})
    assert [each.kind for each in one.perpetual.doctor()][-1] == "store_unreachable"


def test_doctor_finds_keys_that_nothing_deletes(one: WatchedApp) -> None:
    """A batch, a record and a unit that are on no list; what is in use is none."""
    one.perpetual.poll(one.task([Item((1,), key=1)]))
    assert not [each for each in one.perpetual.doctor() if each.kind == "leaked_keys"]
    redis, keys = one.perpetual.store.redis, one.perpetual.store.keys
    redis.hset(keys.poll("gone"), "n", 1)
    redis.rpush(keys.chunk("nobody", 0), "record")
    redis.hset(keys.unit("perpetual:nobody"), "spec", "every 1 ms")

    (finding,) = [each for each in one.perpetual.doctor() if each.kind == "leaked_keys"]

    assert finding.about == {"keys": 3}
    assert "3 keys have no owner and no TTL, such as " in finding.evidence


def test_a_full_store_is_read_within_no_transaction_and_the_command_fits_the_cause(one: WatchedApp) -> None:
    """Some servers refuse even reads within a transaction when they are full. A replica has another command."""
    one.task([])
    lead(one.perpetual)
    redis = one.perpetual.store.redis

    def refusal() -> Any:
        return next(each for each in one.perpetual.status().findings if each.kind == "store_refuses")

    try:
        redis.config_set("maxmemory", 1)
        assert refusal().help.startswith("redis-cli CONFIG SET maxmemory")
        assert area(one.perpetual.status(), "beat").summary.startswith("host:1 leads")
        assert "the store takes no data" in one.perpetual.why("app.work").reasons[0].evidence
        redis.config_set("maxmemory", 0)
        redis.config_set("min-replicas-to-write", 1)
        assert "NOREPLICAS" in refusal().evidence
        assert "bring its replicas back" in refusal().help
        assert "REPLICAOF" not in refusal().help
        redis.config_set("min-replicas-to-write", 0)
        redis.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert "REPLICAOF NO ONE" in refusal().help
    finally:
        redis.config_set("min-replicas-to-write", 0)
        redis.execute_command("REPLICAOF", "NO", "ONE")
        redis.config_set("maxmemory", 0)


def test_the_clock_of_a_worker_is_compared_with_the_stores(one: WatchedApp) -> None:
    """As its last report says; one of another release says nothing."""
    one.task([])
    lead(one.perpetual)
    now = one.perpetual.store.now()
    report(one.perpetual, "right@host", clock=now - 2_000)
    report(one.perpetual, "older@host")
    assert "worker_clock" not in kinds(one.perpetual.status())
    report(one.perpetual, "behind@host", clock=now - 90_000)
    report(one.perpetual, "ahead@host", clock=now + 3_600_000)

    found = [each.evidence for each in one.perpetual.status().findings if each.kind == "worker_clock"]
    assert sorted(found) == [
        "the clock of worker ahead@host is 3600 s ahead of the store's",
        "the clock of worker behind@host is 90 s behind the store's",
    ]


def test_a_pause_that_holds_no_unit_is_shown_and_its_command_ends_it(one: WatchedApp) -> None:
    """Of a queue that no task uses, a tenant that has no unit, all routines, and a task that this code does not know."""
    task = one.task([])
    lead(one.perpetual)
    report(one.perpetual)
    one.perpetual.pause(queue="not yet", reason="a migration")
    one.perpetual.pause(tenant="acme")
    one.perpetual.pause(routine="*")
    one.perpetual.pauses.pause(replace(one.perpetual.pause(task), scope=Scope("unit", "perpetual:app.gone")))
    found = {each.about["scope"]: each for each in one.perpetual.status().findings if each.kind == "paused"}
    assert found.keys() == {"queue:not yet", "tenant:acme", "routine:*", "perpetual:app.gone", "perpetual:app.work"}
    assert found["queue:not yet"].evidence.startswith("the queue not yet is paused: a migration (by ")
    assert found["queue:not yet"].help == "celery -A proj perpetual resume --queue 'not yet'"
    assert "not yet" not in str(one.perpetual.why(task).to_dict())

    for finding in found.values():
        words = shlex.split(finding.help.partition("perpetual ")[2])
        done = CliRunner().invoke(group, words, obj=SimpleNamespace(app=one.app))
        assert done.exit_code == 0, done.output
    assert one.perpetual.pauses.now() == {}
    assert "paused" not in kinds(one.perpetual.status())

    one.redis.hset("perpetual:paused", "written by hand", "{}")
    (finding,) = [each for each in one.perpetual.status().findings if each.kind == "paused"]
    assert finding.help == "redis-cli HDEL perpetual:paused 'written by hand'"
