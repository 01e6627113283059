"""The store goes away for longer than a lease: no living task is taken for lost, and none starts twice."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import redis

from tests.support import wait_until
from tests.support.leased_tasks import PREFIX, SETTINGS, TASKS, TTL, all_well, events, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

EIGHT = "ITEMS = 8\n" + TASKS


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.matrix)])
def test_redis_is_away_for_two_lease_times(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """It is store and broker; with its data. Eight tasks run on, are delivered again, and run once."""
    server = private_redis(appendonly=True)
    proj = project(EIGHT, store=server.url, **SETTINGS, perpetual_store_timeout=1)
    proj.beat().ready()
    for _ in range(2):
        proj.worker("--prefetch-multiplier=1", pool=pool, concurrency=4).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 8, "eight run")

    server.stop()
    time.sleep(2 * TTL)  # the measure itself: longer than any lease
    server.start()
    # A whole lease time passes under the eyes of the sweep, and then some.
    wait_until(lambda: proj.redis.zcard("perpetual:workers") == 2, "both workers have reported")
    time.sleep(2 * TTL)  # the measure: nothing may happen in it
    proj.write("released", "")

    all_well(proj, 8)
    assert [len(several) for several in tokens(proj, "begin").values()] == [1] * 8
    assert events(proj, "lease.lost") == []


def test_redis_comes_back_without_its_data(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Nothing runs twice, and the ends of what runs are announced."""
    server = private_redis()
    proj = project(EIGHT, store=server.url, **SETTINGS, perpetual_store_timeout=1)
    beat = proj.beat().ready()
    proj.worker(concurrency=8).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 8, "eight run")
    beat.terminate()  # its next poll would find the rows, which are still due, under new ids

    server.stop()
    time.sleep(2 * TTL)  # the measure itself
    server.start()
    assert proj.redis.dbsize() <= 10
    proj.write("released", "")

    wait_until(lambda: sum(final_ends(proj).values()) >= 8, "eight ends are announced", 60)
    assert final_ends(proj) == Counter({(task_id, "success"): 1 for task_id in tokens(proj, "begin")})
    assert [len(several) for several in tokens(proj, "begin").values()] == [1] * 8


def test_a_store_that_stands_still_does_not_hold_up_what_a_worker_receives(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Of many messages that come once more one waits for the store; the main process goes on, and so do the tasks."""
    server = private_redis()
    proj = project(
        """
        @app.task(base=PerpetualTask)
        def short(n):
            ledger.record(n)
        """,
        **SETTINGS, perpetual_store_url=server.url, perpetual_store_timeout=2,
    )  # fmt: skip
    proj.run_python("import proj; [proj.short.delay(n) for n in range(32)]")
    messages = [json.loads(text) for text in proj.redis.lrange("celery", 0, -1)]
    proj.redis.delete("celery")
    proj.worker("--prefetch-multiplier=16", concurrency=4).ready()

    with redis.Redis.from_url(server.url) as store:
        store.client_pause(30_000)
    for message in messages:
        message["properties"]["delivery_info"]["redelivered"] = message["headers"]["redelivered"] = True
        proj.redis.lpush("celery", json.dumps(message))
    wait_until(lambda: proj.redis.llen("celery") == 0, "they are received", 20)

    assert "pong" in proj.run_python("import proj; print(proj.app.control.ping(timeout=10))")


def test_the_only_machine_is_dead_for_a_while(project: Callable[..., Project]) -> None:
    """No worker was in contact with the store, which was never away: the lost task runs again within a lease time."""
    lease = {"perpetual_lease_ttl": 8, "perpetual_heartbeat_interval": 1, "perpetual_store_timeout": 1}
    proj = project("ITEMS = 1\n" + TASKS, **{**SETTINGS, **lease})
    beat = proj.beat().ready()
    worker = proj.worker(concurrency=1).ready()
    wait_until(lambda: tokens(proj, "begin"), "it has begun")

    worker.kill9()
    beat.kill9()
    time.sleep(3)  # the measure itself: longer than a silence in which the store counts as reachable
    proj.beat()
    held = wait_until(lambda: max(0, proj.redis.pttl(f"{PREFIX}:hold")), "leases are kept for a while")
    assert held <= 2000 + 2000  # two heartbeats and two time-outs, not a lease time
    proj.worker(concurrency=1).ready()
    wait_until(lambda: [len(each) for each in tokens(proj, "begin").values()] == [2], "it has begun again")
    proj.write("released", "")
    all_well(proj, 1)
