"""Neighbours in a worker that other people have: they keep working, and so do leases and ends."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import DELIVERY_DROPPED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

POLL = "from proj import *; print(*perpetual.poll('proj.deliver').task_ids)"


def test_a_process_for_each_task(project: Callable[..., Project]) -> None:
    """With ``worker_max_tasks_per_child = 1`` every task runs once and ends once, and no child takes an end along."""
    proj = project("ITEMS = 12\n" + TASKS, worker_max_tasks_per_child=1, **SETTINGS)
    proj.write("released", "")
    ids = proj.run_python(POLL).split()
    proj.worker(concurrency=2).ready()

    wait_until(lambda: len(tokens(proj, "end")) == 12, "all have run", timeout=60)

    wait_until(lambda: len(final_ends(proj)) == 12, "all ends are announced")
    assert final_ends(proj) == {(task_id, "success"): 1 for task_id in ids}
    assert {task_id: len(each) for task_id, each in tokens(proj, "begin").items()} == dict.fromkeys(ids, 1)
    children = Counter(row.pid for row in proj.rows() if row.what.startswith("begin"))
    assert set(children.values()) == {1}


def test_headers_of_a_monitor_travel_with_polled_items(project: Callable[..., Project]) -> None:
    """A receiver of ``before_task_publish`` that opens a span for each message finds it again where its task runs."""
    proj = project(
        """
        from uuid import uuid4
        from celery.signals import after_task_publish, before_task_publish, task_prerun

        @before_task_publish.connect
        def opened(sender=None, headers=None, **_):
            headers["span"] = f"span of {headers['id']}"
            ledger.record(headers["id"], "opened")

        @after_task_publish.connect
        def closed(sender=None, headers=None, **_):
            ledger.record(headers["id"], "closed")

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [(n,) for n in range(30)], bind=True)
        def deliver(self, n):
            ledger.record(self.request.id, str((self.request.headers or {}).get("span") or self.request.get("span")))
        """,
        **SETTINGS,
    )
    ids = proj.run_python(POLL).split()
    proj.worker(concurrency=2).ready()

    wait_until(lambda: sum(row.what.startswith("span of") for row in proj.rows()) == 30, "all have run", timeout=60)

    assert sorted(row.id for row in proj.rows("opened")) == sorted(row.id for row in proj.rows("closed")) == sorted(ids)
    spans = {row.id: row.what for row in proj.rows() if row.what.startswith("span of")}
    assert spans == {task_id: f"span of {task_id}" for task_id in ids}


def test_a_worker_inside_a_process_twice(project: Callable[..., Project], redis_url: str) -> None:
    """``start_worker`` of Celery's testing tools, started and stopped twice: each runs its tasks under a lease."""
    config: dict[str, Any] = {**SETTINGS, "result_backend": redis_url, "worker_hijack_root_logger": False}
    proj = project(
        """
        @app.task(base=PerpetualTask)
        def work(n):
            return [n, perpetual.lease_token()]
        """,
        **config,
    )

    lines = proj.run_python(
        """
        from celery.contrib.testing.worker import start_worker
        from proj import *

        for n in range(2):
            with start_worker(app, perform_ping_check=False, pool="solo", shutdown_timeout=30):
                result = work.delay(n)
                print(*result.get(timeout=20), perpetual.wait(result.id, timeout=10).status)
        """
    ).splitlines()

    assert [line for line in lines if line.endswith("success")] == ["0 1 success", "1 2 success"]
    assert not proj.redis.exists("perpetual:leases", "perpetual:workers")


@pytest.mark.matrix
def test_a_broker_that_times_consumers_out(project: Callable[..., Project], impatient_rabbitmq_url: str) -> None:
    """RabbitMQ closes the channel of a task that runs long, which ends Celery's consumer: the task still runs once."""
    proj = project("ITEMS = 2\n" + TASKS, broker=impatient_rabbitmq_url, **SETTINGS)
    ids = proj.run_python(POLL).split()
    timed_out = proj.worker(concurrency=4).ready()

    timed_out.wait_for_log("PRECONDITION_FAILED")
    other = proj.worker(concurrency=4).ready()
    dropped = other.wait_for_event(DELIVERY_DROPPED, count=2)
    assert dropped["verdict"] == "adopted"
    proj.write("released", "")

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1 for task_id in ids}, "all have ended")
    assert {task_id: len(each) for task_id, each in tokens(proj, "begin").items()} == dict.fromkeys(ids, 1)
