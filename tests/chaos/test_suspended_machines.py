"""A machine that was suspended: what its worker believed when it fell asleep is over when it wakes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery_perpetual.events import EXECUTION_OVERTAKEN
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, all_well, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: The kernel's monotonic clock does not count the time in which a machine is suspended, and its boot clock does.
SUSPENDED = """
import time

monotonic = time.monotonic

def without_sleep():
    try:
        with open("slept") as file:
            return monotonic() - float(file.read() or 0)
    except FileNotFoundError:
        return monotonic()

time.monotonic = without_sleep
"""

SOURCE = """
def begin(self, what="begin"):
    ledger.record(self.request.id, f"{what} {perpetual.lease_token()}")

@app.task
def linked(value):
    ledger.record(value, "linked")

@app.task(base=PerpetualTask, bind=True)
def brings(self, name):
    begin(self)
    while not os.path.exists("released"):
        time.sleep(0.05)
    begin(self, "end")
    return name
"""


def test_an_execution_on_a_suspended_machine_brings_nothing(project: Callable[..., Project]) -> None:
    """Its body returns before the worker has reported again; the callback runs for the execution that took over."""
    proj = project(SOURCE, **SETTINGS, perpetual_heartbeat_interval=1)
    proj.beat().ready()
    victim = proj.worker(concurrency=1, env=proj.at_start(SUSPENDED)).ready()
    task_id = proj.run_python("from proj import *; print(brings.apply_async(('a',), link=linked.s()).id)").strip()
    wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 1, "it has begun")

    victim.stop_signal()
    asleep = time.monotonic()
    proj.worker(concurrency=2).ready()
    wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 2, "another worker has begun it", 40)
    proj.write("released", "")
    proj.write("slept", f"{time.monotonic() - asleep}")
    victim.cont()

    all_well(proj, 1)
    victim.wait_for_event(EXECUTION_OVERTAKEN)
    wait_until(lambda: proj.rows("linked"), "the callback has run")
    assert [row.id for row in proj.rows("linked")] == ["a"]
    assert final_ends(proj) == {(task_id, "success"): 1}
