"""Celery's result backend is down, and the worker's main process has a question to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

SOURCE = """
import signal

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [Item(key="one")], on_lost={on_lost!r}, bind=True)
def dies(self):
    ledger.record(self.request.id, "begin")
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(ignore_result=True)
def other(n):
    ledger.record(n, "other")
"""


@pytest.mark.parametrize(("on_lost", "seconds"), [("requeue", 15), ("fail", 60)])
def test_a_lost_task_holds_up_no_other_task_where_the_backend_is_down(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], on_lost: str, seconds: int
) -> None:
    """`result_backend_always_retry` would try for ever, in the process that all tasks of the worker need."""
    backend = private_redis()
    config: dict[str, Any] = {"result_backend": backend.url, "result_backend_always_retry": True}
    proj = project(SOURCE.format(on_lost=on_lost), **config, **SETTINGS)
    worker = proj.worker(concurrency=2).ready()
    backend.stop()
    proj.beat().ready()
    wait_until(lambda: proj.rows("begin"), "a task has begun, and killed its process")
    wait_until(lambda: "is gone" in worker.log() or "WorkerLost" in worker.log(), "the worker has seen it")

    proj.run_python("from proj import other\nfor n in range(5):\n    other.apply_async([n])")
    wait_until(lambda: len(proj.rows("other")) == 5, "the others have run", timeout=seconds)
