"""The very next end of a running task heeds an operator's decision, without waiting for a heartbeat."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

LINKED = """
ITEMS = 0

@app.task
def linked(result):
    ledger.record("linked", str(result))

@app.task(base=PerpetualTask, bind=True)
def lingers(self):
    begin(self)
    linger(self)
    begin(self, "end")
    return "its own"
"""

FAIL = ("perpetual", "fail", "--reason", "enough", "--yes")
RELEASE = ("perpetual", "release", "--yes")


@pytest.mark.parametrize("pool", ["prefork", "solo", "threads"])
@pytest.mark.parametrize("command", [FAIL, RELEASE], ids=["fail", "release"])
def test_an_end_right_after_an_operator(
    project: Callable[..., Project], redis_url: str, pool: str, command: tuple[str, ...]
) -> None:
    """Neither its result nor its callbacks count, though the worker's next heartbeat is far away."""
    slow = {**SETTINGS, "perpetual_lease_ttl": 60, "result_backend": redis_url}
    proj = project(LINKED + TASKS, **slow)
    worker = proj.worker(pool=pool, concurrency=1).ready()
    task_id = proj.run_python("import proj; print(proj.lingers.apply_async(link=proj.linked.s()).id)").strip()
    wait_until(lambda: tokens(proj, "begin"), "it has begun")

    assert proj.celery(*command, task_id).returncode == 0
    proj.write("released", "")

    wait_until(lambda: tokens(proj, "end"), "its body has returned")
    wait_until(lambda: "has lost its lease" in worker.log(), "its outcome is dropped")
    if command is FAIL:
        assert final_ends(proj) == {(task_id, "failure"): 1}
        assert [row for row in proj.rows() if row.id == "linked"] == []
    else:
        wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has run again")
        wait_until(lambda: [row for row in proj.rows() if row.id == "linked"], "its callback has run")
        assert len(tokens(proj, "end")[task_id]) == 2
        assert len([row for row in proj.rows() if row.id == "linked"]) == 1
