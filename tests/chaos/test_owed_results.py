"""The result backend is away when a worker's main process and the leader end tasks that have no body any more."""

from __future__ import annotations

import ast
import json
from typing import TYPE_CHECKING

from celery_perpetual.events import RESULT_DELAYED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

TASKS = """
def rows():
    return [Item(key="only")]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, lease=False, time_limit=0.5)
def limited():
    time.sleep(60)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, lease=False)
def dies():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, on_lost="fail")
def lost():
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, on_lost="fail")
def runs():
    ledger.record("runs")
    time.sleep(60)

NAMES = ("limited", "dies", "lost")

def poll(*names):
    return {name: perpetual.poll(f"proj.{name}").task_ids[0] for name in names}

def work_off():
    while perpetual.store.redis.exists("perpetual:owed"):
        perpetual.cycle()
        time.sleep(0.1)

def results(ids):
    found = {}
    for name, task_id in ids.items():
        try:
            found[name] = app.AsyncResult(task_id).get(timeout=40)
        except Exception as error:
            found[name] = type(error).__name__
    return found
"""


def test_results_of_tasks_without_a_body_outlast_the_backend(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Their ends are announced meanwhile, and a program that waits for Celery's result gets it afterwards."""
    backend = private_redis(appendonly=True)
    proj = project(f"import signal\n{TASKS}", **SETTINGS, result_backend=backend.url, perpetual_store_timeout=1)
    worker = proj.worker(concurrency=2).ready()
    worker.stop_signal()
    ids = ast.literal_eval(proj.run_python("import proj; print(proj.poll(*proj.NAMES))"))
    backend.stop()
    worker.cont()

    ended = {(ids["limited"], "failure"): 1, (ids["dies"], "failure"): 1, (ids["lost"], "lost"): 1}
    wait_until(lambda: final_ends(proj) == ended, "each has ended, and is announced")
    worker.wait_for_event(RESULT_DELAYED, count=3)
    status = "import json, proj; print(json.dumps([each.kind for each in proj.perpetual.check()]))"
    assert "results_unstored" in json.loads(proj.run_python(status))
    backend.start()
    beat = proj.beat().ready()

    expected = {"limited": "TimeLimitExceeded", "dies": "WorkerLostError", "lost": "TaskLost"}
    assert ast.literal_eval(proj.run_python(f"import proj; print(proj.results({ids}))")) == expected
    wait_until(lambda: not proj.redis.keys("perpetual:owed*"), "nothing is owed")
    assert final_ends(proj) == ended
    assert worker.alive
    assert beat.alive


def test_a_leader_that_dies_leaves_what_it_owes_to_the_next_pass(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It has ended the task of a dead worker while the backend was away; any process may store the result."""
    backend = private_redis(appendonly=True)
    proj = project(f"import signal\n{TASKS}", **SETTINGS, result_backend=backend.url, perpetual_store_timeout=1)
    worker = proj.worker(concurrency=1).ready()
    ids = ast.literal_eval(proj.run_python("import proj; print(proj.poll('runs'))"))
    wait_until(lambda: len(proj.rows()) == 1, "it runs")
    backend.stop()
    worker.kill9(whole_group=True)
    beat = proj.beat()
    wait_until(lambda: final_ends(proj) == {(ids["runs"], "lost"): 1}, "the leader has ended it")
    beat.wait_for_event(RESULT_DELAYED)
    beat.kill9()
    backend.start()

    found = proj.run_python(f"import proj; proj.work_off(); print(proj.results({ids}))")
    assert ast.literal_eval(found) == {"runs": "TaskLost"}
    assert final_ends(proj) == {(ids["runs"], "lost"): 1}
