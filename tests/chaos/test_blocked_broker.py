"""RabbitMQ raises an alarm and takes no message for a while: what runs keeps its lease, and what is lost is found."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import PROCESS_LOST
from tests.support import wait_until
from tests.support.leased_tasks import PREFIX, SETTINGS, TASKS, TTL, all_well, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project
    from tests.support.rabbitmq import Node

#: The last one runs in a worker of its own.
SOURCE = (
    TASKS.replace("Item((n,), key=n)", "Item((n,), key=n, queue='celery' if n < 4 else 'other')")
    + """
def found_late():
    return [Item((n,), key=n) for n in range(30)] if os.path.exists("blocked") else []

@app.task(base=PerpetualTask, poll_every=3600, next_batch=found_late, bind=True)
def late(self, n):
    begin(self)
    begin(self, "end")
"""
)


def pids(proj: Project) -> dict[str, int]:
    """Task id -> the process in which it began last."""
    return {row.id: row.pid for row in proj.rows() if row.what.startswith("begin")}


def deadlines(proj: Project) -> dict[str, float]:
    """Worker -> until when it counts as living."""
    return dict(proj.redis.zrange(f"{PREFIX}:workers", 0, -1, withscores=True))


@pytest.mark.long
def test_an_alarm_while_processes_die(project: Callable[..., Project], own_rabbitmq: Node) -> None:
    """Pool processes and a whole worker die meanwhile: others lose nothing, and what was lost runs again behind it.

    The node takes the first message of a connection yet, and reads nothing from it after that.
    """
    broker = f"amqp://guest:guest@127.0.0.1:{own_rabbitmq.amqp_port}//"
    proj = project(f"ITEMS = 5\n{SOURCE}", broker=broker, **SETTINGS)
    proj.beat().ready()
    worker = proj.worker(concurrency=4).ready()
    other = proj.worker("-Q", "other", concurrency=1).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 5, "all have begun")
    here = {each: pid for each, pid in pids(proj).items() if pid in worker.children()}
    dying, healthy = list(here)[:2], set(list(here)[2:])

    with own_rabbitmq.alarm():
        for each in dying:
            os.kill(here[each], signal.SIGKILL)
        worker.wait_for_event(PROCESS_LOST, count=2)
        proj.write("blocked", "")
        proj.run_python("import proj; proj.perpetual.nudge('proj.late')")
        other.kill9()
        wait_until(lambda: len(events(proj, "lease.lost")) == 3, "the leader has found the worker that died", TTL + 10)
        ((name, then),) = deadlines(proj).items()
        wait_until(lambda: deadlines(proj)[name] > then + 3000 * TTL, "the other one still reports", 30)
        assert proj.redis.zcard(f"{PREFIX}:outbox") == 1, "what is polled waits for its publish"

    proj.write("released", "")
    proj.worker("-Q", "celery,other", concurrency=2).ready()
    all_well(proj, 5 + 30)
    lost = {loss["task_id"] for loss in events(proj, "lease.lost")}
    begun = {task_id: len(several) for task_id, several in tokens(proj, "begin").items()}
    assert begun == {each: 2 if each in lost else 1 for each in begun}
    assert not healthy & lost
    assert {end["task_id"] for end in events(proj, "completion") if end["recoveries"]} == lost
