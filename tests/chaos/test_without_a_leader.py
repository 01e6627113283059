"""Workers die while no beat runs: what waits for a leader is done by the next one, and what never ran never counts."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, all_well, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SIX = f"ITEMS = 6\n{TASKS}"

#: The character that separates fields of leases, states, workers and units is an ordinary one in a task's name.
NAMED = """
def begin(self, what="begin"):
    ledger.record(self.request.id, f"{what} {perpetual.lease_token()}")

@app.task(base=PerpetualTask, name="a|b:c#d|{e}%3A", poll_every=3600,
          next_batch=lambda: [Item((n,), key=n) for n in range(2)], bind=True)
def deliver(self, n=0):
    begin(self)
    while not os.path.exists("released"):
        time.sleep(0.05)
    begin(self, "end")
"""


def test_leader_and_worker_die_together(project: Callable[..., Project]) -> None:
    """Two ran, and count as recovered; two were received and wait, and do not."""
    proj = project(SIX, **SETTINGS, worker_prefetch_multiplier=2)
    beat = proj.beat().ready()
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    wait_until(lambda: sum(map(proj.redis.hlen, proj.redis.keys("perpetual:tags:*"))) == 4, "it has reported four")

    beat.kill9()
    victim.kill9()
    proj.write("released", "")
    proj.beat().ready()
    proj.worker().ready()

    all_well(proj, 6)
    assert sorted(end["recoveries"] for end in events(proj, "completion")) == [0] * 4 + [1] * 2


def test_a_message_that_kombu_restores_waits_for_a_leader(project: Callable[..., Project]) -> None:
    """Its task's lease is that of a dead worker, which only a leader takes; the next one runs the task once more."""
    proj = project(SIX, **SETTINGS, broker_transport_options={"visibility_timeout": 2}, worker_prefetch_multiplier=1)
    beat = proj.beat().ready()
    wait_until(lambda: proj.redis.llen("celery") == 6, "the items are in the queue")
    beat.kill9()
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    victim.kill9()
    proj.write("released", "")
    # A worker of kombu restores when it starts, and then only every hundred seconds.
    received = max(at for _, at in proj.redis.zrange("unacked_index", 0, -1, withscores=True))
    wait_until(lambda: time.time() > received + 2, "the messages may be restored")
    proj.worker().ready()

    wait_until(lambda: proj.redis.hget("perpetual:counters", "dropped_adopted"), "kombu has restored one", 60)
    assert len(events(proj, "lease.lost")) == 0

    proj.beat().ready()
    all_well(proj, 6)
    assert len(events(proj, "lease.recovered")) == 2


def test_separators_in_the_name_of_a_task(project: Callable[..., Project]) -> None:
    """Items of it and a task sent by hand are lost with their worker, run again, and end once."""
    proj = project(NAMED, **SETTINGS)
    proj.beat().ready()
    victim = proj.worker(concurrency=3).ready()
    proj.run_python("from proj import *; deliver.delay()")
    wait_until(lambda: len(tokens(proj, "begin")) == 3, "three have begun")

    victim.kill9()
    proj.write("released", "")
    proj.worker(concurrency=3).ready()

    all_well(proj, 3)
    assert {end["task"] for end in events(proj, "completion")} == {"a|b:c#d|{e}%3A"}
    assert [end["recoveries"] for end in events(proj, "completion")] == [1] * 3
