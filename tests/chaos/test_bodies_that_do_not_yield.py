"""Workers of greenlets whose bodies compute for longer than a lease time: they live, and run every task once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.greenlets import need
from tests.support.leased_tasks import SETTINGS, TTL, all_well, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: While one body computes no greenlet of its process runs.
SOURCE = """
def begin(self, what="begin"):
    ledger.record(self.request.id, f"{what} {perpetual.lease_token()}")

@app.task(base=PerpetualTask, bind=True)
def computes(self, seconds):
    begin(self)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        sum(range(1000))
    begin(self, "end")
"""


@pytest.mark.matrix
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_body_computes_for_two_lease_times(project: Callable[..., Project], pool: str) -> None:
    """Another worker stands by that would take what is lost; nothing is."""
    need(pool)
    proj = project(SOURCE, **SETTINGS)
    proj.beat().ready()
    proj.worker("-Q", "green,celery", pool=pool, concurrency=4).ready()
    proj.run_python(f"from proj import *; [computes.apply_async(({2 * TTL},), queue='green') for _ in range(2)]")
    wait_until(lambda: tokens(proj, "begin"), "the first has begun")
    proj.worker("-Q", "green,celery", concurrency=2).ready()

    all_well(proj, 2)
    assert [len(several) for several in tokens(proj, "begin").values()] == [1, 1]
    assert events(proj, "lease.lost") == []


@pytest.mark.matrix
@pytest.mark.parametrize("pool", ["gevent", "eventlet"])
def test_a_worker_whose_body_computes_is_killed(project: Callable[..., Project], pool: str) -> None:
    """The thread that proves a worker's life dies with it."""
    need(pool)
    proj = project(SOURCE, **SETTINGS)
    proj.beat().ready()
    victim = proj.worker(pool=pool, concurrency=4).ready()
    proj.run_python(f"from proj import *; computes.delay({2 * TTL})")
    wait_until(lambda: tokens(proj, "begin"), "it has begun")
    time.sleep(TTL)  # the measure: the heartbeat is late by now
    victim.stop_signal()
    proj.worker(concurrency=2).ready()

    wait_until(lambda: [len(several) for several in tokens(proj, "begin").values()] == [2], "it begins anew", 40)
    victim.kill9()
    all_well(proj, 1)
