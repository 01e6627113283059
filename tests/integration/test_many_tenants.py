"""Ten thousand tenants do not stop the clock."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


MANY = """
from celery.schedules import crontab

COUNT = {count}

def steady(poll):
    ledger.record(poll.late_by, "late" if poll.late_by > 1 else "in time")

def many():
    return range(0 if os.path.exists("none") else COUNT)

def slow():
    time.sleep(3600)

def nothing(): ...

every = dict(base=PerpetualTask, next_batch=steady)
app.task(**every, name="proj.steady", poll_every=0.5)(nothing)
app.task(**every, name="proj.many", poll_every=crontab(0, 0, day_of_month=29, month_of_year=2), tenants=many,
         perpetual_options=PerpetualOptions(tenants_ttl=1))(nothing)
app.task(**every, name="proj.slow", poll_every=0.5, tenants=slow)(nothing)
"""


@pytest.mark.parametrize("count", [10_000, pytest.param(50_000, marks=pytest.mark.long)])
def test_many_tenants_do_not_stop_the_clock(
    project: Callable[..., Project], store_redis: redis.Redis, count: int
) -> None:
    """So many come and go, another function hangs, and what is polled meanwhile keeps its slots."""
    proj = project(MANY.format(count=count))
    proj.beat().ready()
    wait_until(lambda: store_redis.zcard("perpetual:due") == count + 1, "all have come", timeout=90)
    assert store_redis.hlen("perpetual:tenants:proj.many") == count

    proj.write("none", "")
    wait_until(lambda: store_redis.zcard("perpetual:due") == 1, "all have gone", timeout=90)
    wait_until(lambda: not store_redis.exists("perpetual:tenants:proj.many"), "the list is empty")

    wait_until(lambda: len(proj.rows("in time")) > 10, "it has been polled several times")
    assert proj.rows("late") == []
