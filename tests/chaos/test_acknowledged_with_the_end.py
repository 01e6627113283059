"""Where broker and store are one Redis, a message is acknowledged in the step that makes it superfluous.

That is the lease for a task that is acknowledged early, and the end for one that is acknowledged late.
"""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
@app.task(acks_late=not EARLY)
def ordinary(n):
    while WAITS and not os.path.exists("released"):
        time.sleep(0.05)
    ledger.record(n)

@app.task(base=PerpetualTask, acks_late=not EARLY)
def perpetual_one(n):
    ledger.record(n)

@app.task(bind=True, acks_late=not EARLY)
def sorry(self, how):
    if how == "retry" and not self.request.retries:
        raise self.retry(countdown=0)
    if how == "fail":
        raise ValueError(how)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject(how)
    ledger.record(how)

def send(count):
    for n in range(count):
        (ordinary, perpetual_one)[n % 2].delay(n)
"""

ALL = {"perpetual_leases": "all", "perpetual_completions": "all"}
BOOKS = ("unacked", "unacked_index")
EARLY = pytest.mark.parametrize("early", [False, True], ids=["late", "early"])


def source(*, early: bool, waits: bool = False) -> str:
    return f"from celery.exceptions import Ignore, Reject\nEARLY, WAITS = {early}, {waits}\n{TASKS}"


def all_ran(proj: Project, count: int) -> None:
    wait_until(lambda: sum(final_ends(proj).values()) == count, f"{count} ends are announced", 60)
    assert set(final_ends(proj).values()) == {1}
    wait_until(lambda: not proj.redis.exists(*BOOKS, "perpetual:leases"), "nothing of them is left")


@pytest.mark.parametrize(
    ("pool", "early"),
    [
        ("prefork", False),
        ("threads", True),
        pytest.param("prefork", True, marks=pytest.mark.matrix),
        pytest.param("threads", False, marks=pytest.mark.matrix),
    ],
)
def test_no_call_of_its_own_acknowledges_a_success(project: Callable[..., Project], pool: str, early: bool) -> None:
    """A received message costs one transaction of the broker, and none when its task is over."""
    proj = project(source(early=early), **SETTINGS, **ALL)
    worker = proj.worker(pool=pool).ready()
    proj.run_python("from proj import *; send(2)")
    all_ran(proj, 2)
    proj.redis.config_resetstat()

    proj.run_python("from proj import *; send(40)")
    all_ran(proj, 42)

    assert 40 <= proj.redis.info("commandstats")["cmdstat_exec"]["calls"] < 60
    worker.terminate()
    assert worker.wait(60) == 0
    assert not proj.redis.llen("celery")
    assert len(proj.rows()) == 42


@EARLY
def test_every_other_end_is_acknowledged_too(project: Callable[..., Project], early: bool) -> None:
    """Retries, failures, tasks that ignore or reject themselves, and what is revoked before it runs."""
    proj = project(source(early=early), **SETTINGS, **ALL, result_backend="")
    proj.worker().ready()

    proj.run_python("""
from proj import *
for how in ("retry", "fail", "ignore", "reject"):
    sorry.delay(how)
app.control.revoke("revoked")
ordinary.apply_async((0,), task_id="revoked", countdown=1)
""")

    all_ran(proj, 5)
    # Celery 5.7 takes a task that rejects itself for a failure.
    ends = sorted("failure" if status == "rejected" else status for _, status in final_ends(proj))
    assert ends == ["failure", "failure", "ignored", "revoked", "success"]
    assert [row.id for row in proj.rows()] == ["retry"]
    assert not proj.redis.llen("celery")


def test_a_pool_process_that_dies_before_it_has_a_lease(project: Callable[..., Project]) -> None:
    """An early-acked message is in the broker's books until then, and goes back to the front of its queue."""
    proj = project(source(early=True), **SETTINGS, **ALL)
    proj.worker(concurrency=1, env={"PERPETUAL_CRASH_AT": "task.starting:2"}).ready()

    proj.run_python("from proj import *; send(4)")

    all_ran(proj, 4)
    assert sorted(row.id for row in proj.rows()) == ["0", "1", "2", "3"]
    assert not events(proj, "lease.lost")


@pytest.mark.parametrize(
    ("early", "point"),
    [
        (True, "task.starting:2"),
        (True, "task.started:2"),
        (False, "task.finished:2"),
        pytest.param(True, "task.finished:2", marks=pytest.mark.matrix),
        pytest.param(False, "task.starting:2", marks=pytest.mark.matrix),
        pytest.param(False, "task.started:2", marks=pytest.mark.matrix),
    ],
)
def test_a_worker_that_dies_around_an_acknowledgement(project: Callable[..., Project], point: str, early: bool) -> None:
    """No ledger has these tasks: until the lease their only copy is the message, early-acked or not."""
    proj = project(source(early=early, waits=True), **SETTINGS, **ALL)
    proj.beat().ready()
    dying = proj.worker(pool="threads", concurrency=1, env={"PERPETUAL_CRASH_AT": point})

    proj.run_python("from proj import *; send(4)")
    wait_until(lambda: proj.redis.hlen("unacked") == 4 - early, "it has received all, and runs the first")
    proj.write("released", "")
    assert dying.wait(60) == -signal.SIGKILL
    proj.worker(pool="threads", concurrency=1).ready()

    all_ran(proj, 4)
    assert sorted(row.id for row in proj.rows()) == ["0", "1", "2", "3"]


def test_an_early_acked_task_without_a_lease_that_is_retried(project: Callable[..., Project]) -> None:
    """The store was away when it began, so no script has struck its message off: the worker does."""
    away = "\nperpetual.grants._down = lambda: True\n"
    proj = project(source(early=True) + away, **SETTINGS, **ALL)
    proj.beat().ready()
    proj.worker(pool="threads").ready()

    proj.run_python("from proj import *; sorry.delay('retry'); sorry.delay('ignore')")

    all_ran(proj, 2)
    assert [row.id for row in proj.rows()] == ["retry"]
    assert not events(proj, "lease.lost")
