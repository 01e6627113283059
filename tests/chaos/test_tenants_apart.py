"""Tenants that hang, raise, flood, return rubbish or call sys.exit do not hold up the others."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.stream_events import leader, poll_events, polls_behind

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

#: Seconds between two polls in beat, and in workers, where each costs a task.
HERE, THERE = 2, 8
#: Of a poll that hangs; much longer than the test.
TIMEOUT = 60

# A poll that comes so late that it is due again leaves a row.
MIXED = f"""
import sys

POLLED = []  # filled in each process by itself

def due(poll):
    kind = poll.tenant.rstrip("0123456789")
    if kind == "hang":
        ledger.record(poll.task, "hangs")
        time.sleep(3600)
    if kind == "raise":
        raise OSError(poll.tenant)
    if kind == "flood":
        return (Item((number,), key=False) for number in range(50_000))
    if kind == "rubbish":
        return object()
    if kind == "exit":
        sys.exit(1)
    if poll.task == "proj.there" and not POLLED:
        POLLED.append(os.getpid())
        ledger.record("process", "polls")
    if poll.late_by > (2 if poll.task == "proj.here" else 8):
        ledger.record(poll.task, f"late by {{poll.late_by}}")
    return []

tenants = ["hang", "flood", "rubbish", "exit"] + [f"raise{{n}}" for n in range(10)] + [f"fine{{n}}" for n in range(FINE)]
every = dict(base=PerpetualTask, poll_timeout={TIMEOUT}, next_batch=due, tenants=tenants)

@app.task(**every, poll_every={HERE})
def here(number):
    time.sleep(0.02)  # a flood that is worked off at once is none

@app.task(**every, poll_every={THERE}, perpetual_options=PerpetualOptions(poll_in="worker"))
def there(number):
    time.sleep(0.02)
"""


def polls(client: redis.Redis, task: str) -> dict[str, list[Any]]:
    """The outcomes of the polls of each tenant."""
    found = defaultdict(list)
    for outcome in poll_events(client, f"proj.{task}"):
        found[outcome.data["tenant"]].append(outcome)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("count", [60, pytest.param(200, marks=pytest.mark.long)])
def test_bad_tenants_do_not_hold_up_the_others(
    project: Callable[..., Project], store_redis: redis.Redis, count: int
) -> None:
    """Of so many tenants fourteen go wrong, in beat and in workers, and the others keep their slots.

    When the beat is killed while a poll hangs, that poll begins alone in the next beat, and then the others go on.
    """
    well = count - 14
    proj = project(f"FINE = {well}\n{MIXED}", perpetual_leader_ttl=3)
    workers = [proj.worker(concurrency=2).ready() for _ in range(2)]
    beats = [proj.beat().ready(), proj.beat().ready()]

    def fine(task: str) -> dict[str, list[Any]]:
        return {tenant: seen for tenant, seen in polls(store_redis, task).items() if tenant.startswith("fine")}

    def late(task: str) -> list[str]:
        return [row.what for row in proj.rows() if row.id == f"proj.{task}" and row.what != "hangs"]

    def polled_there() -> set[int]:
        return {row.pid for row in proj.rows("polls")}

    wait_until(lambda: len(proj.rows("hangs")) == 2, "polls hang in both places", timeout=60)
    for task in ("here", "there"):
        wait_until(
            lambda task=task: len(fine(task)) == well and all(polls_behind(seen) > 1 for seen in fine(task).values()),
            f"the others are polled twice in {task}",
            timeout=60,
        )
    assert all(polled_there() & set(worker.children()) for worker in workers), "polls spread over the workers"
    assert store_redis.llen("celery") > 1000, "polls come before the items of a tenant that floods"
    for task, every in (("here", HERE), ("there", THERE)):
        polled = {tenant: (seen[-1].slot - seen[0].slot, polls_behind(seen)) for tenant, seen in fine(task).items()}
        assert {tenant: each for tenant, each in polled.items() if round(each[0] / every) + 1 != each[1]} == {}
        assert late(task) == []
    statuses = {tenant: seen[-1].status for tenant, seen in polls(store_redis, "here").items()}
    assert {statuses.pop(f"fine{n}") for n in range(well)} == {"empty"}
    assert statuses.pop("flood") in ("enqueued", "skipped")
    assert set(statuses.values()) == {"failed"}

    (beat,) = (each for each in beats if each.pid == leader(store_redis)[0])
    beat.kill9()
    killed = time.time()
    wait_until(lambda: len(proj.rows("hangs")) == 3, "the poll that was open hangs in the other beat too")
    units = [f"perpetual:u:perpetual:proj.here:fine{n}" for n in range(well)]
    wait_until(
        lambda: all(int(store_redis.hget(unit, "polled")) > killed * 1000 for unit in units),
        "the others are polled again",
    )
    assert time.time() < killed + TIMEOUT / 3
    assert len(proj.rows("hangs")) == 3
