"""Beats that die in the middle of a back-off, a wait hint, a budget, a preflight or a refill: the next one goes on."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.stream_events import leader

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

#: Seconds. The lead lasts so long after a kill; a hint outlives it.
TTL, HINT, LONGEST, BETWEEN = 3, 7, 1.5, 2.5

# The second try of the preflight kills its beat, when everything else is in the middle of something.
SOURCE = f"""
import signal

class Asked(Exception):
    retry_after = {HINT}

def down(poll):
    ledger.record(poll.attempt, "down")
    raise ConnectionError("nobody answers")

def asked(poll):
    ledger.record(poll.attempt, "asked")
    if poll.attempt == 0:
        raise Asked

def spent(poll):
    ledger.record(poll.attempt, "spent")
    raise KeyError("row")

def credentials():
    ledger.record("credentials", "preflight")
    tries = [row[1] for row in ledger.rows()].count("preflight")
    if tries == 1:
        raise ConnectionError("nobody answers")
    if tries == 2:
        while not os.path.exists("kill"):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)

def checked(poll):
    ledger.record(poll.attempt, "checked")

def refilled(poll):
    ledger.record(poll.trigger, "refilled")
    return [Item((n,), key=False) for n in range(3)] if poll.trigger == "schedule" else []

def nothing(n=None):
    while not os.path.exists("finish"):
        time.sleep(0.02)

once = [ErrorRule(KeyError, backoff=lambda before: {BETWEEN}, max_attempts=2)]
every = dict(base=PerpetualTask, poll_every=3600, poll_timeout=30)
app.task(**every, name="proj.down", next_batch=down)(nothing)
app.task(**every, name="proj.asked", next_batch=asked)(nothing)
app.task(**every, name="proj.spent", next_batch=spent, perpetual_options=PerpetualOptions(error_rules=once))(nothing)
app.task(**every, name="proj.checked", next_batch=checked, preflight=credentials)(nothing)
app.task(**every, name="proj.refilled", next_batch=refilled, perpetual_options=PerpetualOptions(low_water=2))(nothing)
"""


@pytest.mark.slow
def test_what_a_killed_beat_was_waiting_for(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Counters of failures go on, hints are kept to their end, no budget is given twice, nothing waits longer."""
    policies = {"node": (LONGEST, LONGEST)}
    proj = project(SOURCE, perpetual_leader_ttl=TTL, perpetual_error_policies=policies)
    beats = [proj.beat(), proj.beat()]
    worker = proj.worker(concurrency=3).ready()
    wait_until(lambda: len(proj.rows("preflight")) == 2 and len(proj.rows("spent")) >= 1, "all are in the middle")
    wait_until(lambda: len(proj.rows("asked")) == 1, "one was asked to wait")
    killed = leader(store_redis)
    assert killed is not None
    proj.write("kill", "")
    (dead,) = (each for each in beats if each.pid == killed[0])
    dead.wait(timeout=10)
    ended = proj.rows()[-1].time
    proj.write("finish", "")  # no beat leads when the items end

    wait_until(lambda: proj.rows("checked"), "the preflight has passed in the other beat", timeout=20)
    wait_until(lambda: len(proj.rows("refilled")) == 2, "the unit is refilled")
    wait_until(lambda: len(proj.rows("asked")) == 2, "the hint is over")
    wait_until(lambda: len(proj.rows("spent")) == 3, "the budget is spent")
    wait_until(lambda: proj.rows("down")[-1].time > ended + TTL, "the back-off goes on")

    with Console(proj) as console:
        states = {unit["task"]: (unit["state"], unit["reason"]) for unit in console("perpetual.units()")}
    assert [int(row.id) for row in proj.rows("down")] == list(range(len(proj.rows("down"))))
    assert max(later.time - row.time for row, later in pairwise(proj.rows("down"))) < LONGEST + TTL + 3
    first, second = proj.rows("asked")
    assert (first.id, second.id) == ("0", "1")
    assert HINT <= second.time - first.time < HINT + 2
    assert [row.id for row in proj.rows("spent")] == ["0", "1", "2"]
    assert all(BETWEEN <= later.time - row.time < BETWEEN + TTL + 3 for row, later in pairwise(proj.rows("spent")))
    assert states["proj.spent"][0] == "paused"
    assert "3 failures in a row (rule KeyError)" in states["proj.spent"][1]
    assert len(proj.rows("preflight")) == 3
    assert [row.id for row in proj.rows("refilled")] == ["schedule", "refill"]
    # Both beats have polled: what went on did so from the store.
    pids = {row.pid for row in proj.rows("down")}
    assert pids == {each.pid for each in beats}
    worker.terminate()
