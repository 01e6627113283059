"""Tasks that go on under their id in another message, and workers whose clocks are wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import DELIVERY_DROPPED
from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, PREFIX, SETTINGS, TASKS, all_well, events, final_ends, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = (
    """
ITEMS = 0
from celery import chain

@app.task(base=PerpetualTask, bind=True, max_retries=None)
def retries(self, times):
    begin(self)
    ledger.record(sorted(self.request.headers), "headers")
    if self.request.retries < times:
        raise self.retry(countdown=0)
    begin(self, "end")

@app.task(base=PerpetualTask, bind=True)
def keeps_its_retry(self):
    begin(self)
    if self.request.retries < 2:
        if self.request.retries == 0:
            self.retry(throw=False, countdown=0)
        else:
            try:
                self.retry(countdown=0)
            except Exception:
                pass
        begin(self, "continues")
        return "too early"
    begin(self, "end")
    return "in the end"

@app.task(base=PerpetualTask, bind=True)
def nightly(self):
    begin(self)
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return len(ledger.rows())

@app.task
def step():
    time.sleep(1)

@app.task(base=PerpetualTask, bind=True)
def last(self):
    begin(self, "last")
    linger(self)

@app.task(base=PerpetualTask, bind=True)
def replaces(self):
    begin(self)
    raise self.replace(chain(step.si(), step.si(), step.si(), last.si()))
"""
    + TASKS
)


@pytest.mark.parametrize("times", [100, pytest.param(1_000, marks=pytest.mark.long)])
@ANY_BROKER
def test_a_task_that_retries_many_times(project: Callable[..., Project], broker: dict[str, Any], times: int) -> None:
    """Each try has its own lease, one after the other, and there is one end."""
    proj = project(SOURCE, **SETTINGS, **broker)
    proj.worker(concurrency=2).ready()

    task_id = proj.run_python(f"import proj; print(proj.retries.delay({times}).id)").strip()

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has ended", 60)
    tried = tokens(proj, "begin")[task_id]
    assert len(tried) == times + 1
    assert tried == sorted(set(tried))
    assert {row.id for row in proj.rows("headers")} == {"['perpetual']"}
    assert not proj.redis.exists("perpetual:leases", "perpetual:states", "perpetual:copies")
    assert events(proj, "lease.lost") == []


@ANY_BROKER
def test_a_replacement_keeps_its_lease_and_its_end(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """A chain of more than three heartbeats in its place is no loss; its last task is guarded, killed, and runs."""
    proj = project(SOURCE, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=1).ready()

    task_id = proj.run_python("import proj; print(proj.replaces.delay().id)").strip()
    wait_until(lambda: tokens(proj, "last")[task_id], "the chain's last task has begun")
    assert final_ends(proj) == {}
    assert events(proj, "lease.lost") == []
    victim.kill9()
    proj.write("released", "")
    proj.worker(concurrency=1).ready()

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has ended")
    assert len(tokens(proj, "begin")[task_id]) == 1
    assert len(tokens(proj, "last")[task_id]) == 2
    assert [lost["task_id"] for lost in events(proj, "lease.lost")] == [task_id]


@pytest.mark.parametrize("seconds", [-300, 300])
def test_a_worker_whose_clock_is_wrong(project: Callable[..., Project], seconds: int) -> None:
    """Five minutes off, Redis delivers its messages again at once, or late; every task runs once all the same."""
    transport = {"visibility_timeout": 60, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}
    proj = project("ITEMS = 8\n" + TASKS, **SETTINGS, broker_transport_options=transport)
    skewed = proj.at_start(f"import time\nright = time.time\ntime.time = lambda: right() + {seconds}\n")
    proj.beat().ready()
    proj.worker("--prefetch-multiplier=1", concurrency=4, env=skewed).ready()
    wait_until(lambda: len(tokens(proj, "begin")) >= 4, "four run under the wrong clock")
    proj.worker("--prefetch-multiplier=1", concurrency=8).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 8, "the others run under the right one")
    if seconds < 0:
        wait_until(lambda: int(proj.redis.hget("perpetual:counters", "dropped_adopted") or 0), "one came twice")
    proj.write("released", "")

    all_well(proj, 8)
    assert all(len(several) == 1 for several in tokens(proj, "begin").values())
    assert events(proj, "lease.lost") == []


@ANY_BROKER
def test_a_task_that_keeps_its_retry_to_itself(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str
) -> None:
    """A body that goes on after ``retry(throw=False)``, or swallows it, does not end; its last try does."""
    proj = project(SOURCE, **{**SETTINGS, "result_backend": redis_url}, **broker)
    proj.worker(concurrency=1).ready()

    task_id = proj.run_python("import proj; print(proj.keeps_its_retry.delay().id)").strip()

    wait_until(lambda: final_ends(proj) == {(task_id, "success"): 1}, "it has ended", 60)
    assert len(tokens(proj, "begin")[task_id]) == 3
    assert len(tokens(proj, "continues")[task_id]) == 2
    (end,) = [each for each in events(proj, "completion") if each["task_id"] == task_id]
    assert (end["result"], end["attempt"]) == ("in the end", 3)
    wait_until(lambda: not proj.redis.exists("unacked", f"{PREFIX}:leases"), "nothing is left of it")


def test_an_id_of_the_users_own_is_used_twice(project: Callable[..., Project]) -> None:
    """Each use runs, is retried, and has its own end; what is delivered once more of a use that has ended is dropped."""
    proj = project(SOURCE, **SETTINGS)
    worker = proj.worker(concurrency=1).ready()

    for use in (1, 2):
        proj.run_python("import proj; proj.nightly.apply_async(task_id='nightly')")
        wait_until(lambda use=use: final_ends(proj) == {("nightly", "success"): use}, f"use {use} has ended")
        assert json.loads(proj.redis.get(f"{PREFIX}:completion:nightly"))["result"] == 2 * use
        assert len(tokens(proj, "begin")["nightly"]) == 2 * use
    proj.run_python("""
        import proj
        with proj.app.connection_for_write() as connection:
            message = proj.app.amqp.create_task_message("nightly", "proj.nightly", (), {})
            message.headers.update(perpetual=1, redelivered=True)
            proj.app.amqp.send_task_message(proj.app.amqp.Producer(connection), "proj.nightly", message)
    """)

    dropped = worker.wait_for_event(DELIVERY_DROPPED)
    assert dropped["verdict"] == "final"
    assert len(tokens(proj, "begin")["nightly"]) == 4
