"""Executions that have lost their lease and do not know it: nothing that they bring counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.events import EXECUTION_OVERTAKEN
from tests.support import wait_until
from tests.support.leased_tasks import ANY_BROKER, SETTINGS, TASKS, all_well, events, final_ends, tokens
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = (
    """
ITEMS = 0
from celery import chord

@app.task
def linked(value):
    ledger.record(value, "linked")

@app.task
def counted(values):
    ledger.record(sorted(values), "counted")

@app.task(base=PerpetualTask, bind=True)
def brings(self, name):
    begin(self)
    mine = os.getpid()
    with open("first" if not os.path.exists("first") else "second", "w") as file:
        file.write(str(mine))
    linger(self)
    begin(self, "end")
    return name

@app.task(base=PerpetualTask, bind=True, max_retries=5)
def retries(self):
    begin(self)
    again = os.path.exists("first")
    open("first", "w").close()
    linger(self)
    if not again:
        raise self.retry(countdown=0)
    begin(self, "end")

@app.task(base=PerpetualTask, bind=True)
def asks(self):
    begin(self)
    linger(self)
    ledger.record(self.request.id, f"mine {perpetual.still_mine()}")
"""
    + TASKS
)


def freeze_until_lost(proj: Project, worker: object, call: str) -> str:
    """Let a worker begin a task, freeze it, and let another one begin it anew; return the id."""
    task_id = proj.run_python(f"import proj; print(proj.{call}.id)").strip()
    wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 1, "it has begun")
    worker.stop_signal()  # type: ignore[attr-defined]
    proj.worker(concurrency=2).ready()
    wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 2, "another worker has begun it", 40)
    return task_id


@ANY_BROKER
def test_a_frozen_worker_brings_nothing(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str
) -> None:
    """After SIGCONT its result, its callback and its part of a chord are dropped; those of the other one count."""
    proj = project(SOURCE, result_backend=redis_url, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=1, name="victim").ready()
    task_id = freeze_until_lost(proj, victim, "brings.apply_async(('a',), link=proj.linked.s())")

    victim.cont()
    proj.write("released", "")

    all_well(proj, 1)
    victim.wait_for_event(EXECUTION_OVERTAKEN)
    assert len(tokens(proj, "end")[task_id]) == 2  # what a body does, it has done
    wait_until(lambda: proj.rows("linked"), "the callback has run")
    assert [row.id for row in proj.rows("linked")] == ["a"]
    assert final_ends(proj) == {(task_id, "success"): 1}


@ANY_BROKER
def test_a_frozen_part_of_a_chord_counts_once(
    project: Callable[..., Project], broker: dict[str, Any], redis_url: str
) -> None:
    """The chord's body runs once, when every part has ended."""
    proj = project(SOURCE, result_backend=redis_url, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=2, name="victim").ready()
    proj.run_python("from proj import *; chord([brings.s('a'), brings.s('b')])(counted.s())")
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both have begun")
    victim.stop_signal()
    proj.worker(concurrency=2).ready()
    wait_until(lambda: all(len(each) == 2 for each in tokens(proj, "begin").values()), "both have begun anew", 40)

    victim.cont()
    proj.write("released", "")

    all_well(proj, 2)
    wait_until(lambda: proj.rows("counted"), "the chord's body has run")
    victim.wait_for_event(EXECUTION_OVERTAKEN, count=2)
    assert [row.id for row in proj.rows("counted")] == ["['a', 'b']"]


@ANY_BROKER
def test_a_frozen_retry_supersedes_nobody(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """A zombie that wants to retry does not: the message would supersede the execution that is right."""
    proj = project(SOURCE, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=1, name="victim").ready()
    task_id = freeze_until_lost(proj, victim, "retries.delay()")

    victim.cont()
    proj.write("released", "")

    all_well(proj, 1)
    victim.wait_for_event(EXECUTION_OVERTAKEN)
    assert len(tokens(proj, "begin")[task_id]) == 2
    assert proj.redis.llen("celery") == 0


TWIN = """
ITEMS = 0

@app.task(base=PerpetualTask, bind=True, max_retries=1)
def overtaken(self):
    if self.request.retries:
        open("second", "w").close()
        linger(self)
        return "second"
    self.retry(countdown=0, throw=False)
    linger(self, "second")
    return "first"
"""


def test_an_execution_beside_its_own_retry(project: Callable[..., Project]) -> None:
    """In two threads of one process: the end of the first is not taken for that of the second."""
    proj = project(f"{TWIN}\n{TASKS}", **SETTINGS)
    proj.beat().ready()
    worker = proj.worker(pool="threads", concurrency=2).ready()
    task_id = proj.run_python("import proj; print(proj.overtaken.delay().id)").strip()
    worker.wait_for_log(f"Task proj.overtaken[{task_id}] succeeded")

    proj.write("released", "")

    wait_until(lambda: final_ends(proj), "it has ended")
    assert final_ends(proj) == {(task_id, "success"): 1}
    assert json.loads(proj.redis.get(f"perpetual:completion:{task_id}"))["result"] == "second"


@ANY_BROKER
def test_the_body_can_ask(project: Callable[..., Project], broker: dict[str, Any]) -> None:
    """``still_mine()`` is false for the one that was frozen, and true for the other one."""
    proj = project(SOURCE, **SETTINGS, **broker)
    proj.beat().ready()
    victim = proj.worker(concurrency=1, name="victim").ready()
    freeze_until_lost(proj, victim, "asks.delay()")

    victim.cont()
    proj.write("released", "")

    wait_until(lambda: len(proj.rows("mine False")) == len(proj.rows("mine True")) == 1, "both have asked")


@pytest.mark.parametrize("pool", ["prefork", pytest.param("threads", marks=pytest.mark.matrix)])
def test_a_worker_that_is_cut_off(project: Callable[..., Project], redis_url: str, pool: str) -> None:
    """Cut off from Redis for longer than a lease: its task is run by another worker, and its own end comes too late."""
    port = int(redis_url.rsplit(":", maxsplit=1)[-1].split("/", maxsplit=1)[0])
    with Proxy(port) as proxy:
        behind = redis_url.replace(f":{port}/", f":{proxy.port}/")
        source = "app.conf.broker_url = os.environ.get('BEHIND') or app.conf.broker_url\n" + SOURCE
        proj = project(source, **SETTINGS, perpetual_store_timeout=1)
        proj.beat().ready()
        proj.worker(pool=pool, concurrency=1, name="victim", env={"BEHIND": behind}).ready()
        task_id = proj.run_python("import proj; print(proj.brings.delay('a').id)").strip()
        wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 1, "it has begun")

        proxy.cut()
        proj.worker(pool=pool, concurrency=1).ready()
        wait_until(lambda: len(tokens(proj, "begin")[task_id]) == 2, "another worker has begun it", 40)
        proxy.mend()
        proj.write("released", "")

        all_well(proj, 1)
        assert len(events(proj, "lease.lost")) == 1
