"""A worker that a program starts and stops inside of itself, and code that looks at a task as Celery left it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
import json

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,), key="one")], bind=True)
def deliver(self, n):
    return [self.request.id, self.request.retries, perpetual.lease_token() is not None]

@app.task(bind=True)
def ordinary(self):
    return self.request.id
"""


def test_a_body_in_a_worker_inside_of_a_program(project: Callable[..., Project], redis_url: str) -> None:
    """It sees its own request and holds a lease."""
    proj = project(TASKS, result_backend=redis_url)

    said = proj.run_python(
        """
        from proj import *
        from celery.contrib.testing.worker import start_worker
        with start_worker(app, pool="solo", perform_ping_check=False):
            (task_id,) = perpetual.poll("proj.deliver").task_ids
            done = perpetual.wait(task_id, 20)
            other = ordinary.delay()
            print(json.dumps([task_id, done.result, other.id, other.get(timeout=20)]))
        """
    )

    task_id, result, other_id, other = json.loads(said.splitlines()[-1])
    assert result == [task_id, 0, True]
    assert other == other_id


def test_a_worker_that_stops_inside_of_a_program(project: Callable[..., Project]) -> None:
    """Its heartbeat ends with it and nothing is reported of it; another one may follow."""
    said = project(TASKS).run_python(
        """
        import threading
        from proj import *
        from celery.contrib.testing.worker import start_worker

        def left():
            hearts = [each.name for each in threading.enumerate() if each.name == "perpetual-heartbeat"]
            return hearts + [each.name for each in perpetual.workers()]

        seen = []
        for _ in range(2):
            with start_worker(app, pool="solo", perform_ping_check=False):
                (task_id,) = perpetual.poll("proj.deliver").task_ids
                status, during = perpetual.wait(task_id, 20).status, len(left())
            deadline = time.monotonic() + 20
            while left() and time.monotonic() < deadline:
                time.sleep(0.05)
            seen.append([status, during, left()])
        print(json.dumps(seen))
        """
    )

    assert json.loads(said.splitlines()[-1]) == [["success", 2, []]] * 2


def test_the_tracer_of_a_task_is_what_was_set(project: Callable[..., Project]) -> None:
    """It can be set, read and deleted; where there is none, Celery builds one."""
    said = project(TASKS).run_python(
        """
        from proj import *
        from celery.app.trace import trace_task
        tracer = lambda *args: args
        ordinary.__trace__ = tracer
        is_same = ordinary.__trace__ is tracer
        del ordinary.__trace__
        print(json.dumps([is_same, ordinary.__trace__, trace_task(ordinary, "an id", (), {}, {"id": "an id"}, app=app)[0]]))
        """
    )

    assert json.loads(said) == [True, None, "an id"]
