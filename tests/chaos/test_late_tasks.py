"""Tasks that a worker comes to know after its start are guarded like all others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.events import EXECUTION_OVERTAKEN
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

LATE = """
from proj import *

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((), key="late")], bind=True)
def late(self):
    begin(self)
    linger(self)
    begin(self, "end")
"""


SEND_MALFORMED = """
from more import *
for task in ("proj.deliver", "more.late"):
    headers = {"id": f"malformed {task}", "task": task, "lang": "py"}
    with app.amqp.producer_pool.acquire() as producer:
        producer.publish([[], {}], routing_key="celery", serializer="json", headers=headers)
"""


def test_a_task_of_a_module_that_a_pool_restart_imports(project: Callable[..., Project]) -> None:
    """It has a lease, and what an execution brings that has lost its lease is dropped. So with one known before.

    Messages of the wrong shape are refused, and end no worker.
    """
    proj = project("ITEMS = 1\n" + TASKS, worker_pool_restarts=True, **SETTINGS)
    proj.write("more.py", LATE)
    worker = proj.worker().ready()
    pool = set(worker.children())

    def restarted() -> bool:
        """Celery replaces one idle process of the pool at a time; one that stays runs its next task with the old code."""
        said = proj.run_python(
            "import proj; print(proj.app.control.pool_restart(modules=['more'], reply=True, limit=1, timeout=20))"
        )
        assert "reload started" in said
        return not pool & set(worker.children())

    wait_until(restarted, "the pool has new processes only")
    proj.run_python(SEND_MALFORMED)
    proj.run_python("import more; more.perpetual.poll('more.late'); more.perpetual.poll('proj.deliver')")
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both have begun")

    for task_id in tokens(proj, "begin"):
        assert proj.celery("perpetual", "release", task_id, "--yes").returncode == 0
    proj.write("released", "")

    ids = set(tokens(proj, "begin"))
    wait_until(lambda: all(len(tokens(proj, "end").get(each, ())) == 2 for each in ids), "both have run twice")
    ends = {(each, "success"): 1 for each in ids}
    ends |= {(f"malformed {task}", "rejected"): 1 for task in ("proj.deliver", "more.late")}
    wait_until(lambda: final_ends(proj) == ends, "both have ended once, and what is malformed too")
    assert worker.events(EXECUTION_OVERTAKEN)
