"""The store answers no call for a while, and then makes those that were sent meanwhile."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import redis

from celery_perpetual.events import LEASE_SKIPPED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

TASKS = """
@app.task(base=PerpetualTask, bind=True)
def tries(self):
    ledger.record(self.request.id, self.request.retries)
    if not self.request.retries:
        raise self.retry(countdown=6)

@app.task(base=PerpetualTask, bind=True)
def hands_on(self):
    ledger.record(self.request.id, self.request.replaced_task_nesting)
    if not self.request.replaced_task_nesting:
        raise self.replace(hands_on.si().set(countdown=6))

@app.task(base=PerpetualTask)
def warm_up():
    pass
"""


def test_a_start_that_comes_after_its_execution_has_retried_runs_nothing(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It ran without a lease, and its retry, or what has replaced it, goes on alone."""
    server = private_redis()
    proj = project(TASKS, **SETTINGS, perpetual_store_url=server.url, perpetual_store_timeout=0.5)
    proj.redis = redis.Redis.from_url(server.url, decode_responses=True)
    worker = proj.worker(concurrency=2).ready()
    proj.run_python("import proj; proj.warm_up.apply_async(task_id='warm')")
    wait_until(lambda: final_ends(proj), "the server knows the scripts")
    os.kill(server.pid, signal.SIGSTOP)
    proj.run_python("import proj; [proj.app.tasks[f'proj.{n}'].apply_async(task_id=n) for n in ('tries', 'hands_on')]")
    worker.wait_for_event(LEASE_SKIPPED, count=2)
    wait_until(lambda: {row.id for row in proj.rows()} == {"tries", "hands_on"}, "both have run")
    os.kill(server.pid, signal.SIGCONT)

    wait_until(
        lambda: final_ends(proj) == {(name, "success"): 1 for name in ("warm", "tries", "hands_on")}, "each ends once"
    )
    assert sorted((row.id, row.what) for row in proj.rows()) == [
        (name, attempt) for name in ("hands_on", "tries") for attempt in ("0", "1")
    ]
    assert events(proj, "lease.lost") == []
    wait_until(lambda: not proj.redis.exists("perpetual:states", "perpetual:leases"), "nothing is left")
