"""``retry_classified``: bodies that raise, and which of them Celery retries."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
from celery.exceptions import Reject

app.conf.perpetual_error_policies = {"node": (0.001, 0.001), "degraded": (0.001, 0.001)}

class Asked(Exception):
    wait_hint = 0.7

class Spent(Exception):
    pass

rules = [
    ErrorRule(Spent, backoff=0.001, max_attempts=1),
    ErrorRule(PermissionError, error_class="permanent"),
    ErrorRule(ZeroDivisionError, backoff=0.001, max_attempts=-1),
]

def task(name, error, fails=99):
    def body(self):
        ledger.record(name, self.request.retries)
        if self.request.retries < fails:
            raise error
        return "done"

    options = PerpetualOptions(retry_classified=True, error_rules=rules)
    app.task(base=PerpetualTask, bind=True, name=name, poll_every=3600, next_batch=lambda: [], max_retries=2,
             perpetual_options=options)(body)

task("down", ConnectionError("down"), fails=2)
task("unknown", ValueError("on purpose"))
task("asked", Asked("later"), fails=1)
task("spent", Spent("on purpose"))
task("permanent", PermissionError("revoked"))
task("endless", ZeroDivisionError(), fails=6)
task("rejected", Reject("no", requeue=False))
NAMES = ["down", "unknown", "asked", "spent", "permanent", "endless", "rejected"]

def ends():
    ids = {app.tasks[name].delay().id: name for name in NAMES}
    ended = perpetual.wait_all(list(ids), timeout=40)
    return {ids[task_id]: (end.status, end.attempt, end.error and end.error["type"]) for task_id, end in ended.items()}
"""


def test_bodies_are_retried_by_the_class_of_their_error(project: Callable[..., Project]) -> None:
    """With its wait, its hint and its budget; what is permanent, and what a body decides itself, is not retried."""
    proj = project(SOURCE)
    proj.worker(pool="prefork", concurrency=2).ready()

    found = ast.literal_eval(proj.run_python("from proj import ends; print(ends())"))

    assert found == {
        "down": ("success", 3, None),
        "unknown": ("failure", 3, "ValueError"),
        "asked": ("success", 2, None),
        "spent": ("failure", 2, "Spent"),
        "permanent": ("failure", 1, "PermissionError"),
        "endless": ("success", 7, None),
        "rejected": ("rejected", 1, "Reject"),
    }
    first, second = (row.time for row in proj.rows() if row.id == "asked")
    assert 0.7 <= second - first < 10
    assert sum(row.id == "unknown" for row in proj.rows()) == 3
