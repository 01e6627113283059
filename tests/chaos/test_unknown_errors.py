"""The store answers with an error that no outage explains: no task fails for it, and no end is dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.ends import announced, record

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
@app.task(base=PerpetualTask)
def work(n):
    ledger.record(n)
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_store_that_cannot_grant_leases_fails_no_task(project: Callable[..., Project], pool: str) -> None:
    """A key of a wrong type: the task runs without a lease, and it succeeds."""
    proj = project(TASKS)
    worker = proj.worker(pool=pool, concurrency=1).ready()
    proj.redis.delete("perpetual:token")
    proj.redis.lpush("perpetual:token", "of a wrong type")

    task_id = proj.run_python("import proj; print(proj.work.delay(1).id)").strip()
    wait_until(lambda: record(proj.redis, task_id), "the end is announced")

    end = record(proj.redis, task_id)
    assert end is not None
    assert end["status"] == "success"
    assert len(proj.rows()) == 1
    assert worker.alive


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_an_end_that_the_store_refuses_is_kept_and_holds_up_no_other(
    project: Callable[..., Project], pool: str
) -> None:
    """It is announced once what stood in its way is gone; ends that come later do not wait for it."""
    proj = project(TASKS)
    worker = proj.worker(pool=pool, concurrency=1).ready()
    proj.redis.hset("perpetual:completion:refused", "of a", "wrong type")

    proj.run_python("import proj; proj.work.apply_async([1], task_id='refused')")
    wait_until(lambda: len(proj.rows()) == 1, "the body has run")
    others = proj.run_python("import proj; print(*[proj.work.delay(n).id for n in (2, 3)])").split()
    wait_until(lambda: all(record(proj.redis, each) for each in others), "the other ends are announced")
    proj.redis.delete("perpetual:completion:refused")
    wait_until(lambda: record(proj.redis, "refused"), "the refused end is announced")

    ids = ["refused", *others]
    assert [(record(proj.redis, each) or {})["status"] for each in ids] == ["success"] * 3
    assert [announced(proj.redis)[each] for each in ids] == [1, 1, 1]
    assert len(proj.rows()) == 3
    assert worker.alive
