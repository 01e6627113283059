"""Reads of 10 000 units cost an operator little, and find the few that are not well."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from celery_perpetual.cli import perpetual as group
from tests.support.pretending import lead, report
from tests.support.watched_app import WatchedApp

if TYPE_CHECKING:
    from collections.abc import Callable

COUNT = 10_000


def name(number: int) -> str:
    return f"perpetual:app.work:t{number:05}"


@pytest.fixture
def many(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    """Units as a beat leaves them that polls each once a minute."""
    one = watched_app()
    one.task([], tenants=[f"t{number:05}" for number in range(COUNT)])
    lead(one.perpetual, seconds_ago=900)
    report(one.perpetual)
    one.perpetual.poll("app.work", "t00000")
    redis, keys, now = one.perpetual.store.redis, one.perpetual.store.keys, one.perpetual.store.now()
    entry, pipe = redis.lindex(keys.polls(name(0)), 0), redis.pipeline(transaction=False)
    for number in range(COUNT):
        pipe.hset(keys.unit(name(number)), mapping={"spec": "every 60000 ms", "inflight": 3, "polled": now})
        if number:
            pipe.lpush(keys.polls(name(number)), entry)
    pipe.zadd(keys.units, {name(number): now for number in range(COUNT)})
    pipe.zadd(keys.due, {name(number): now + 30_000 for number in range(COUNT)})
    pipe.execute()
    return one


def cpu(call: Callable[[], Any]) -> float:
    """Seconds that it computes, which does not depend on what else the machine does."""
    begun = time.process_time()
    call()
    return time.process_time() - begun


def test_status_of_ten_thousand_units_reads_little_and_finds_those_that_are_not_well(many: WatchedApp) -> None:
    """A second at most of computing; each kind of trouble of a single unit among them is found."""
    one, redis, keys = many, many.perpetual.store.redis, many.perpetual.store.keys
    now = one.perpetual.store.now()
    found = one.perpetual.status()
    assert {each.kind for each in found.findings} == {"persistence"}
    assert found.areas[2].facts == {"units": COUNT, "active": COUNT}
    assert found.areas[3].facts["in_flight"] == 3 * COUNT
    assert cpu(one.perpetual.status) < 1

    head, _, text = redis.lindex(keys.polls(name(1)), 0).decode().partition("\n")
    took = {"started_at": "2026-01-01T23:59:30.000Z", "finished_at": "2026-01-02T00:00:35.500Z"}
    for number, other in ((4321, took), (1111, {"status": "skipped", "gate": "hanging", "reason": "it hangs"})):
        redis.lset(keys.polls(name(number)), 0, f"{head}\n{json.dumps(json.loads(text) | other)}")
    redis.hset(keys.unit(name(2222)), mapping={"attempt": 7, "backoff": now + 60_000})
    redis.zadd(keys.due, {name(3333): now - 600_000})
    redis.zadd(keys.failed(name(5555)), {"a row": "+inf"})
    one.perpetual.pause("app.work", "t07777", reason="a migration")

    found = one.perpetual.status()
    units = {each.kind: each.about.get("unit", each.about.get("scope")) for each in found.areas[2].findings}
    assert units == {
        "unit_failing": name(2222), "unit_silent": name(3333), "keys_parked": name(5555), "poll_budget": name(4321),
        "poll_hanging": name(1111), "paused": name(7777),
    }  # fmt: skip
    assert found.areas[2].facts == {"units": COUNT, "active": COUNT - 2, "backing_off": 1, "paused": 1}


def test_the_other_reads_of_ten_thousand_units(many: WatchedApp) -> None:
    """A page costs no more than its names; what shows all of them takes seconds."""
    perpetual = many.perpetual
    assert cpu(lambda: perpetual.units(limit=100)) < 0.5
    assert cpu(lambda: perpetual.why("app.work", "t05000")) < 0.5
    assert cpu(perpetual.check) < 1
    assert cpu(perpetual.units) < 3


def test_the_longest_parked_of_ten_thousand_are_listed(many: WatchedApp) -> None:
    """The first hundred of them, longest parked first; all of them are counted."""
    redis, keys, now = many.perpetual.store.redis, many.perpetual.store.keys, many.perpetual.store.now()
    rows = {
        f"id{n}": json.dumps({
            "task_id": f"id{n}", "task": "app.work", "worker": "w", "token": 1, "attempt": 1, "recoveries": 3,
            "started_at": now, "parked_at": now - n, "reason": "3 workers died",
        })
        for n in range(COUNT)
    }  # fmt: skip
    redis.hset(keys.parked, mapping=rows)
    redis.zadd(keys.parked_at, {f"id{n}": now - n for n in range(COUNT)})

    assert [each.task_id for each in many.perpetual.parked(limit=3)] == ["id9999", "id9998", "id9997"]
    assert cpu(lambda: many.perpetual.parked(limit=100)) < 0.1
    (finding,) = [each for each in many.perpetual.status().findings if each.kind == "tasks_parked"]
    assert finding.about == {"tasks": COUNT}
    assert cpu(many.perpetual.status) < 1
    assert "10000 tasks are parked, the last one because 3 workers died" in str(
        many.perpetual.why("app.work", "t00001")
    )


def test_the_oldest_of_ten_thousand_leases_are_listed(many: WatchedApp) -> None:
    """The first hundred of them are those that run for longest, and the command says that there are more."""
    redis, keys, now = many.perpetual.store.redis, many.perpetual.store.keys, many.perpetual.store.now()
    redis.hset(keys.leases, mapping={f"id{n}": f"w|n|0|0|0|{n}|{now - n}|3|requeue||app.work" for n in range(COUNT)})

    assert [each.task_id for each in many.perpetual.leases(limit=3)] == ["id9999", "id9998", "id9997"]
    assert cpu(lambda: many.perpetual.leases(limit=100)) < 1
    shown = CliRunner().invoke(group, ["leases", "--limit", "2"], obj=SimpleNamespace(app=many.app))
    assert "id9998" in shown.stdout
    assert "id9997" not in shown.stdout
    assert shown.stderr == "there are more than 2; --limit 20 shows more of them\n"
