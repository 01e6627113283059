"""The store goes away for longer than a lease: no living task is taken for lost, and none starts twice."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, TTL, all_well, events, final_ends, tokens

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
    """Nothing runs twice, and the ends of what runs are told."""
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

    wait_until(lambda: sum(final_ends(proj).values()) >= 8, "eight ends are told", 60)
    assert final_ends(proj) == Counter({(task_id, "success"): 1 for task_id in tokens(proj, "begin")})
    assert [len(several) for several in tokens(proj, "begin").values()] == [1] * 8
