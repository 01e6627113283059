"""Tasks that go on under their id without Celery's ``retry``, or say so and send nothing."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
import time

import redis
from celery import chain
from celery.exceptions import Ignore, Retry

NAMES = ["sends_itself", "sends_a_retry", "says_retry", "sends_nothing", "replaced", "cancels_itself", "sends_and_succeeds",
    "sends_itself_at_once", "sends_itself_after_a_retry", "replaced_by_a_chain"]

store = redis.Redis.from_url(app.conf.broker_url)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [
    Item((), key=name, task=f"proj.{name}") for name in NAMES
])
def find(): ...

def executions(task):
    ledger.record(task.request.id, task.name[5:])
    return sum(row[0] == task.request.id for row in ledger.rows())

def is_first(task):
    return executions(task) == 1

@app.task(bind=True)
def sends_itself(self):
    if is_first(self):
        self.apply_async(task_id=self.request.id, countdown=0.5)
        raise Ignore
    return "done"

@app.task(bind=True)
def sends_a_retry(self):
    if is_first(self):
        self.signature_from_request(countdown=0).apply_async()
        raise Ignore
    return "done"

@app.task(bind=True)
def says_retry(self):
    if is_first(self):
        self.signature_from_request(countdown=0).apply_async()
        raise Retry("later")
    return "done"

@app.task(bind=True)
def sends_nothing(self):
    is_first(self)
    raise Retry("later")

@app.task(bind=True)
def replaced(self):
    is_first(self)
    raise self.replace(chain(sends_nothing.si(), sends_itself.si()))

@app.task(bind=True)
def cancels_itself(self):
    is_first(self)
    assert perpetual.cancel(self.request.id)
    return "done"

@app.task(bind=True)
def sends_itself_at_once(self):
    if is_first(self):
        self.apply_async(task_id=self.request.id)
        until = time.monotonic() + 20
        while time.monotonic() < until and b"|came|" not in (store.hget("perpetual:states", self.request.id) or b""):
            time.sleep(0.02)
        raise Ignore
    return "done"

@app.task(bind=True)
def sends_itself_after_a_retry(self):
    count = executions(self)
    if count == 1:
        raise self.retry(countdown=0)
    if count == 2:
        self.apply_async(task_id=self.request.id, countdown=0.2)
        raise Ignore
    return self.request.retries

@app.task(bind=True)
def replaced_by_a_chain(self):
    is_first(self)
    raise self.replace(chain(hands_itself_on.si(), finishes.si()))

@app.task(bind=True)
def hands_itself_on(self):
    if is_first(self):
        self.signature_from_request(countdown=0).apply_async()
        raise Retry("later")

@app.task(bind=True)
def finishes(self):
    is_first(self)

@app.task(bind=True)
def sends_and_succeeds(self):
    is_first(self)
    self.apply_async(task_id=self.request.id)
    return "done"
"""

#: By name: how it ends, the type of its error, how often it runs, and what Celery has of it.
ENDS: dict[str, tuple[str, str | None, int, str]] = {
    "sends_itself": ("success", None, 2, "SUCCESS"),
    "sends_a_retry": ("success", None, 2, "SUCCESS"),
    "says_retry": ("success", None, 2, "SUCCESS"),
    "sends_nothing": ("failure", "TaskError", 1, "FAILURE"),
    "replaced": ("failure", "TaskError", 1, "FAILURE"),
    "cancels_itself": ("revoked", "TaskRevokedError", 1, "REVOKED"),
    "sends_and_succeeds": ("success", None, 1, "SUCCESS"),
    "sends_itself_at_once": ("success", None, 2, "SUCCESS"),
    "sends_itself_after_a_retry": ("success", None, 3, "SUCCESS"),
    "replaced_by_a_chain": ("success", None, 2, "SUCCESS"),
}


@pytest.mark.parametrize("late", [True, False])
def test_each_item_has_one_end(project: Callable[..., Project], redis_url: str, late: bool) -> None:
    """A task that has sent itself again goes on; one that has only said so has failed; a message that comes before its
    task has ended is sent once more by the next pass, and no other needs a pass.
    """
    proj = project(SOURCE, **{**SETTINGS, "perpetual_lease_ttl": 60}, result_backend=redis_url, task_acks_late=late)
    proj.worker(concurrency=2).ready()
    found: dict[str, str] = json.loads(
        proj.run_python("""
        import json, proj
        print(json.dumps(dict(zip(proj.NAMES, proj.perpetual.poll(proj.find).task_ids))))
    """)
    )

    wait_until(lambda: proj.redis.zrange("perpetual:resend", 0, -1) == [found["sends_itself_at_once"]], "it came early")
    proj.run_python("import proj; proj.perpetual.cycle()")
    ends = {(found[name], end[0]): 1 for name, end in ENDS.items()}
    wait_until(lambda: {each: count for each, count in final_ends(proj).items() if each[0] in found.values()} == ends,
               "each has ended")  # fmt: skip
    runs = Counter(row.id for row in proj.rows())
    assert {name: runs[found[name]] for name in ENDS} == {name: end[2] for name, end in ENDS.items()}
    seen: dict[str, Any] = json.loads(
        proj.run_python(f"""
        import json, proj
        ends = {{name: proj.perpetual.completion(each) for name, each in {found!r}.items()}}
        print(json.dumps({{
            name: (end.status, end.error and end.error["type"], proj.app.AsyncResult(end.task_id).state)
            for name, end in ends.items()
        }}))
    """)
    )
    assert seen == {name: [status, error, state] for name, (status, error, _, state) in ENDS.items()}
    wait_until(
        lambda: not proj.redis.exists("perpetual:leases", "perpetual:states", "perpetual:copies"), "nothing is left"
    )


LOST = """
import signal

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,), key="p", task="proj.page")])
def find(): ...

@app.task(bind=True)
def page(self, number):
    ledger.record(self.request.id, number)
    if len(ledger.rows()) == 1:
        self.apply_async(args=[number + 1], task_id=self.request.id, countdown=3600)
        os.kill(os.getpid(), signal.SIGKILL)
    return number
"""


def test_a_lost_execution_begins_from_its_own_message(project: Callable[..., Project]) -> None:
    """It had sent another message under its id and not said that it goes on as that one: its own work is done."""
    proj = project(LOST, **SETTINGS, task_acks_late=False)
    proj.worker(concurrency=1).ready()
    (task_id,) = json.loads(
        proj.run_python("import json, proj; print(json.dumps(proj.perpetual.poll('proj.find').task_ids))")
    )

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has ended")
    assert [row.what for row in proj.rows()] == ["1", "1"]
