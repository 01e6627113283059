"""Ends that wait in the process that ran the task, for longer than its worker needs to find a lost one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import END_REFUSED, LEASE_SKIPPED, RESULT_DELAYED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

TASKS = """
from celery.exceptions import Reject

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

OTHERS = """
@app.task(base=PerpetualTask, bind=True, time_limit=1.5)
def limited(self):
    ledger.record(self.request.id)
    time.sleep(60)

@app.task(base=PerpetualTask, bind=True)
def rejects(self):
    ran(self)
    raise Reject("as it was written", requeue=False)

@app.task(base=PerpetualTask)
def expires():
    ledger.record("expires")

def send_others():
    expires.apply_async(task_id="expires", countdown=2, expires=1.5)
    limited.apply_async(task_id="limited")
    rejects.apply_async(task_id="rejects")
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


def test_ends_that_the_main_process_sees_while_the_result_backend_is_away(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A task that runs out of its time, is rejected or expires ends so, with Celery's result, when it is back."""
    backend = private_redis(appendonly=True)
    proj = project(
        f"{TASKS}{OTHERS}", **SETTINGS, result_backend=backend.url, perpetual_store_timeout=1, result_backend_max_retries=0
    )  # fmt: skip
    worker = proj.worker(concurrency=2).ready()
    proj.write("released", "")
    worker.stop_signal()  # it gets nothing while the backend is there, which who sends a task needs
    proj.run_python("import proj; proj.send_others()")
    backend.stop()
    worker.cont()
    worker.wait_for_event(RESULT_DELAYED, count=3)
    before = reports(proj)
    wait_until(lambda: reports(proj) >= before + 2, "the worker has reported")
    backend.start()

    ends = {("limited", "failure"): 1, ("rejects", "rejected"): 1, ("expires", "expired"): 1}
    wait_until(lambda: final_ends(proj) == ends, "each ends once")
    states = "import proj; print([proj.app.AsyncResult(name).state for name in ('limited', 'expires')])"
    assert "['FAILURE', 'REVOKED']" in proj.run_python(states)
    assert len(proj.rows()) == 2
    wait_until(lambda: not proj.redis.exists("perpetual:leases", "unacked"), "no lease and no message is left")
    assert worker.alive
