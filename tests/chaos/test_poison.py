"""Tasks that kill the process that runs them: parked after a while, shown, and recovered by an operator."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import CeleryProcess, Project

POISON = """
OPTIONS = PerpetualOptions(max_recoveries=2)

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((), key="p")], bind=True,
          perpetual_options=OPTIONS, **({"acks_late": False} if app.conf.get("test_early") else {}))
def deliver(self):
    ledger.record(self.request.id, "begin")
    if not os.path.exists("fixed"):
        os._exit(1)
"""


@ANY_BROKER
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_a_task_that_kills_its_process(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str, early: bool
) -> None:
    """It is tried three times, then parked: its waiters hear of it, and after a fix it runs."""
    proj = project(POISON, result_backend=redis_url, **SETTINGS, **broker, settings={"test_early": early})
    proj.beat().ready()
    proj.worker().ready()

    parked = wait_until(lambda: json.loads(proj.celery("perpetual", "parked", "--json").stdout), "it is parked", 60)
    task_id = parked[0]["task_id"]
    assert (parked[0]["recoveries"], parked[0]["state"], parked[0]["task"]) == (3, "parked", "proj.deliver")
    assert len(proj.rows("begin")) == 3
    waited = proj.celery("perpetual", "wait", task_id, "--timeout", "5", "--json")
    completion = json.loads(waited.stdout)
    assert (completion["status"], completion["final"], waited.returncode) == ("needs_attention", False, 1)
    assert [event["task_id"] for event in events(proj, "lease.parked")] == [task_id]
    assert proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "1"
    assert "1 task is parked" in proj.celery("perpetual", "why", "proj.deliver").stdout

    proj.write("fixed", "")
    assert proj.celery("perpetual", "recover", task_id).returncode == 0
    waited = proj.celery("perpetual", "wait", task_id, "--timeout", "20", "--json")

    assert json.loads(waited.stdout)["status"] == "success"
    assert final_ends(proj) == {(task_id, "success"): 1}
    assert proj.celery("perpetual", "recover", task_id).returncode == 1


def parked_or_dead(proj: Project, worker: CeleryProcess) -> bool:
    return bool(proj.redis.hlen("perpetual:parked")) or not worker.alive


@ANY_BROKER
def test_a_message_that_kills_its_worker(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """It never begins, so no worker holds a lease; it is delivered again or missed, and parked all the same."""
    source = (
        POISON
        + """
from celery.signals import task_received

@task_received.connect(weak=False)
def crash(sender=None, request=None, **_):
    if request.name == "proj.deliver" and not os.path.exists("fixed"):
        ledger.record(request.id, "received")
        os._exit(1)
"""
    )
    proj = project(source, **{**SETTINGS, "perpetual_lease_ttl": 1.5}, **broker)
    proj.beat().ready()
    for _ in range(8):
        victim = proj.worker(concurrency=1)
        wait_until(partial(parked_or_dead, proj, victim), "it is parked, or kills again", 40)
        if proj.redis.hlen("perpetual:parked"):
            break
    (task_id,) = proj.redis.hkeys("perpetual:parked")

    proj.write("fixed", "")
    proj.worker(concurrency=1).ready()
    assert proj.celery("perpetual", "recover", task_id).returncode == 0
    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has run")
    assert not proj.redis.keys("perpetual:suspect:*")


@ANY_BROKER
@pytest.mark.parametrize(("on_lost", "status"), [("fail", "lost"), ("park", "needs_attention")])
def test_a_task_that_must_not_run_twice_ends_as_lost(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str, on_lost: str, status: str
) -> None:
    """A task that must not run twice ends as lost, and Celery's own result raises instead of hanging."""
    proj = project(
        POISON.replace("bind=True,", f"bind=True, on_lost={on_lost!r},"), result_backend=redis_url, **SETTINGS, **broker
    )
    proj.beat().ready()
    proj.worker().ready()
    (row,) = wait_until(lambda: proj.rows("begin"), "it has begun")

    waited = proj.celery("perpetual", "wait", row.id, "--timeout", "20", "--json")

    assert json.loads(waited.stdout)["status"] == status
    if on_lost == "fail":
        raised = proj.run_python(
            f"""
            from proj import app
            try:
                app.AsyncResult({row.id!r}).get(timeout=10)
            except Exception as error:
                print(type(error).__name__)
            """
        )
        assert raised.strip() == "TaskLost"
        assert proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "0"
    assert len(proj.rows("begin")) == 1
