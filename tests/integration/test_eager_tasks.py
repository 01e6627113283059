"""Tasks that their caller runs by itself, in programs without a Redis server, as tests of other people do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
import logging
import sys
from celery_perpetual import Perpetual, PerpetualTask

perpetual = Perpetual(app)
logging.basicConfig(stream=sys.stdout, format="LOG %(levelname)s %(name)s %(message)s")

@app.task(base=PerpetualTask, poll_every=60, next_batch=list)
def succeeds(n):
    perpetual.annotate(n=n)
    return [n, perpetual.lease_token()]

@app.task(base=PerpetualTask, throws=(ValueError,))
def fails(n):
    raise ValueError(n)

@app.task(base=PerpetualTask, bind=True)
def retries(self, n):
    if not self.request.retries:
        raise self.retry(countdown=0, retry=True, retry_policy={"max_retries": 1})
    return n

@app.task
def ordinary(n):
    return n
"""

RUN = """
from celery import chain
from proj import *

for task in (succeeds, fails, retries, ordinary):
    for result in (task.delay(7), task.apply((8,)), task.apply_async((9,), task_id="an id")):
        print(">", task.name, result.state, result.result)
print("> chain", (succeeds.si(1) | ordinary.s()).delay().result)
"""

CONFIG = {"task_always_eager": True, "task_store_eager_result": True, "result_backend": "cache+memory://"}


@pytest.mark.parametrize("scope", ["perpetual", "all"])
def test_eager_tasks_need_no_store(project: Callable[..., Project], scope: str) -> None:
    """With ``memory://`` they end as Celery's do, and nothing of ours is heard."""
    config = {**CONFIG, "perpetual_leases": scope, "perpetual_completions": scope}
    proj = project(TASKS, perpetual=False, broker="memory://", settings=config)

    lines = proj.run_python(RUN).splitlines()

    # A handler that raises is in the log of Celery's signals.
    logged = [line for line in lines if line.startswith("LOG ")]
    assert [line for line in logged if "celery_perpetual" in line or "Signal handler" in line] == []
    assert [line.removeprefix("> ") for line in lines if line.startswith("> ")] == [
        *(f"proj.succeeds SUCCESS [{n}, None]" for n in (7, 8, 9)),
        *(f"proj.fails FAILURE {n}" for n in (7, 8, 9)),
        *(f"proj.retries SUCCESS {n}" for n in (7, 8, 9)),
        *(f"proj.ordinary SUCCESS {n}" for n in (7, 8, 9)),
        "chain [1, None]",
    ]
