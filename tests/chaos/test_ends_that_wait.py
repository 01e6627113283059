"""Ends that wait in the process that ran the task, for longer than its worker needs to find a lost one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import END_REFUSED, LEASE_SKIPPED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

TASKS = """
def ran(self):
    ledger.record(self.request.id)
    while not os.path.exists("released"):
        time.sleep(0.02)
    return 100

@app.task(base=PerpetualTask, bind=True)
def late(self):
    return ran(self)

@app.task(base=PerpetualTask, bind=True, acks_late=False)
def early(self):
    return ran(self)

def send():
    late.apply_async(task_id="late")
    early.apply_async(task_id="early")

def results():
    return [app.AsyncResult(name).get(timeout=30) for name in ("late", "early")]
"""

#: More than a worker needs to give back a task that it does not run.
REPORTS = 5


def reports(proj: Project) -> int:
    """How often the only worker has reported."""
    (worker,) = proj.redis.zrange("perpetual:workers", 0, -1)
    return int(proj.redis.hget(f"perpetual:w:{worker}", "report") or 0)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_result_backend_that_is_away_for_many_reports_has_no_task_run_again(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """The body has returned, and its end waits for the result: its worker does not take it for lost."""
    backend = private_redis(appendonly=True)
    proj = project(TASKS, **SETTINGS, result_backend=backend.url, perpetual_store_timeout=1)
    worker = proj.worker(pool=pool, concurrency=2).ready()
    proj.run_python("import proj; proj.send()")
    wait_until(lambda: len(proj.rows()) == 2, "both run")
    backend.stop()
    proj.write("released", "")
    before = reports(proj)
    wait_until(lambda: reports(proj) >= before + REPORTS, "the worker has reported")
    backend.start()

    assert "[100, 100]" in proj.run_python("import proj; print(proj.results())")
    wait_until(lambda: final_ends(proj) == {("late", "success"): 1, ("early", "success"): 1}, "each ends once")
    assert len(proj.rows()) == 2
    assert events(proj, "lease.lost") == []
    assert worker.alive


def test_ends_that_the_store_refuses_for_many_reports_have_no_task_run_again(project: Callable[..., Project]) -> None:
    """Under leases or not: their messages, which the ends acknowledge, have a worker until then, and their leases too."""
    proj = project(TASKS, **SETTINGS)
    beat, worker = proj.beat().ready(), proj.worker(concurrency=2).ready()
    unreadable = [f"perpetual:completion:{name}" for name in ("late", "early")]
    proj.redis.lpush(unreadable[0], "of another kind")
    proj.run_python("import proj; proj.send()")
    wait_until(lambda: len(proj.rows()) == 2, "both run")
    assert {event["task_id"] for event in worker.events(LEASE_SKIPPED)} == {"late"}
    proj.redis.lpush(unreadable[1], "of another kind")
    proj.write("released", "")
    worker.wait_for_event(END_REFUSED, count=2)
    before = reports(proj)
    wait_until(lambda: reports(proj) >= before + REPORTS + 1, "the worker has reported")
    proj.redis.delete(*unreadable)

    wait_until(lambda: final_ends(proj) == {("late", "success"): 1, ("early", "success"): 1}, "each ends once")
    assert len(proj.rows()) == 2
    assert events(proj, "lease.lost") == []
    wait_until(lambda: proj.redis.hlen("unacked") == 0, "their messages are acknowledged")
    assert worker.alive
    assert beat.alive
