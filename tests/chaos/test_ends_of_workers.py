"""Ends that take the worker along, ends in no worker at all, and what a worker's own end says about its tasks."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import celery
import pytest

from tests.support import wait_until
from tests.support.ends import EVERY_POOL, Listener, announced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support import CeleryProcess, Project

NEW = celery.VERSION >= (5, 7)

TASKS = """
import sys

from celery import Task
from celery.exceptions import Ignore, Reject

OPTIONS = {"base": PerpetualTask, "bind": True, "acks_late": bool(app.conf.task_acks_late)}

@app.task(**OPTIONS)
def runs_out_of_memory(self):
    raise MemoryError("as it was told")

@app.task(**OPTIONS)
def leaves(self):
    sys.exit(3)

class HookRaises(PerpetualTask):
    def on_failure(self, *args, **kwargs):
        raise RuntimeError("the hook itself")

@app.task(**{**OPTIONS, "base": HookRaises})
def fails_in_its_hook(self):
    raise ValueError("as it was told")

@app.task(**OPTIONS)
def lingers(self):
    ledger.record(self.request.id, "begun")
    while not os.path.exists("released"):
        time.sleep(0.05)
    ledger.record(self.request.id, "done")

@app.task(**OPTIONS)
def succeeds(self):
    return 1

@app.task(**OPTIONS)
def fails(self):
    raise ValueError("as it was told")

@app.task(**OPTIONS)
def ignores(self):
    raise Ignore

@app.task(**OPTIONS)
def rejects(self):
    raise Reject("not mine", requeue=False)

@app.task(**OPTIONS)
def retries(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)

@app.task
def plain():
    return 1

@app.task
def plain_failing():
    raise ValueError("as it was told")
"""

LATE = pytest.mark.parametrize("late", [False, True], ids=["early", "late"])


@pytest.fixture
def listener(redis_url: str) -> Iterator[Listener]:
    """Hears every end."""
    with Listener(redis_url) as listening:
        yield listening


def send(proj: Project, name: str) -> str:
    """Send a task; return its id."""
    return proj.run_python(f"import proj; print(proj.{name}.delay().id)").strip()


def the_end(listener: Listener, client: redis.Redis, task_id: str) -> dict[str, Any]:
    """Return the only end that was announced at all."""
    wait_until(lambda: listener.of(task_id), "the end is announced")
    listener.drain()
    (heard,) = listener.of(task_id)
    assert announced(client) == {task_id: 1}
    assert heard.record == heard.text
    return {**heard.completion, "stored": heard.stored}


@LATE
@pytest.mark.parametrize("pool", ["prefork", "threads", pytest.param("solo", marks=pytest.mark.matrix)])
def test_a_task_without_memory_ends_once(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener, pool: str, late: bool
) -> None:
    """MemoryError, which ends the whole worker where Celery learns of it in the main loop, is one failure."""
    proj = project(TASKS, result_backend=redis_url, task_acks_late=late)
    worker = proj.worker(pool=pool, concurrency=1)
    task_id = send(proj, "runs_out_of_memory")
    if pool == "threads":
        wait_until(lambda: listener.of(task_id), "the end is announced")
        worker.terminate()
    else:
        worker.wait()

    end = the_end(listener, store_redis, task_id)

    assert (end["status"], end["error"]["type"], end["stored"]) == ("failure", "MemoryError", "FAILURE")


@pytest.mark.matrix
@LATE
@pytest.mark.parametrize(("name", "status"), [("leaves", "lost"), ("fails_in_its_hook", "failure")])
def test_a_task_that_ends_a_solo_worker_ends_once(
    project: Callable[..., Project],
    store_redis: redis.Redis,
    redis_url: str,
    listener: Listener,
    name: str,
    status: str,
    late: bool,
) -> None:
    """Where the task runs in the worker's only thread, the end is announced before the worker goes."""
    proj = project(TASKS, result_backend=redis_url, task_acks_late=late)
    worker = proj.worker(pool="solo")
    task_id = send(proj, name)
    worker.wait()

    end = the_end(listener, store_redis, task_id)

    assert (end["status"], end["stored"]) == (status, "FAILURE")


def begin(proj: Project, worker: CeleryProcess) -> str:
    """Let a worker begin a task that waits for its sign; return its id."""
    worker.ready()
    task_id = send(proj, "lingers")
    wait_until(lambda: proj.rows("begun"), "the task has begun")
    return task_id


@LATE
@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_killed_worker_announces_nothing(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener, pool: str, late: bool
) -> None:
    """A worker that is killed as a whole says nothing, and no other process may guess."""
    proj = project(TASKS, result_backend=redis_url, task_acks_late=late)
    worker = proj.worker(pool=pool, concurrency=1)
    begin(proj, worker)

    worker.kill9()

    listener.drain()
    assert not listener.everybody()
    assert store_redis.keys("perpetual:completion:*") == []


@LATE
def test_a_cold_shutdown_announces_nothing(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener, late: bool
) -> None:
    """SIGQUIT takes the task's process away: no end. The task is sent again, uncounted, and ends when it has run."""
    proj = project(TASKS, result_backend=redis_url, task_acks_late=late)
    worker = proj.worker(concurrency=1)
    task_id = begin(proj, worker)

    worker.signal(signal.SIGQUIT)
    worker.wait()

    listener.drain()
    assert not listener.everybody()
    assert store_redis.keys("perpetual:completion:*") == []
    # The worker sends it itself where there is time; what it leaves on the list is sent by the next pass.
    assert store_redis.llen("celery") + store_redis.zcard("perpetual:resend") == 1
    proj.run_python("from proj import perpetual; perpetual.cycle()")
    proj.write("released", "")
    proj.worker(concurrency=1)
    end = the_end(listener, store_redis, task_id)
    assert (end["status"], end["recoveries"]) == ("success", 0)


@EVERY_POOL
def test_a_warm_shutdown_announces_what_it_waits_for(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener, pool: str
) -> None:
    """After SIGTERM the running task ends as always, and its end is out before the worker is gone."""
    proj = project(TASKS, result_backend=redis_url, task_acks_late=True)
    worker = proj.worker(pool=pool, concurrency=1)
    task_id = begin(proj, worker)

    worker.signal(signal.SIGTERM)
    worker.wait_for_log("Warm shutdown")
    proj.write("released", "")
    worker.wait()

    listener.drain()
    assert len(listener.of(task_id)) == 1
    end = the_end(listener, store_redis, task_id)
    assert (end["status"], end["stored"]) == ("success", "SUCCESS")


def test_ends_in_the_callers_process(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener
) -> None:
    """With task_always_eager no worker is there, and every task still ends once, where it was called."""
    names = ["succeeds", "fails", "ignores", "rejects", "retries"]
    proj = project(TASKS, result_backend=redis_url, task_always_eager=True)
    code = f"import proj; print(*[getattr(proj, name).delay().id for name in {names}], proj.plain.delay().id)"
    *ids, plain = proj.run_python(code).split()
    listener.drain()

    ends = {
        name: [heard.completion["status"] for heard in listener.of(each)] for name, each in zip(names, ids, strict=True)
    }

    assert ends == {
        "succeeds": ["success"],
        "fails": ["failure"],
        "ignores": ["ignored"],
        "rejects": ["rejected"],
        "retries": ["success"],
    }
    assert listener.of(plain) == []
    assert announced(store_redis) == dict.fromkeys(ids, 1)


def test_all_tasks_of_the_app_if_wanted(
    project: Callable[..., Project], store_redis: redis.Redis, redis_url: str, listener: Listener
) -> None:
    """With perpetual_completions = "all" anybody's tasks are announced, under ids of any form, but not Celery's own."""
    proj = project(TASKS, result_backend=redis_url, perpetual_completions="all")
    proj.worker(concurrency=1)
    proj.run_python("""
        import proj
        from celery import chain
        proj.app.send_task("celery.backend_cleanup", task_id="built-in")
        proj.plain.apply_async(task_id="42")
        proj.plain_failing.apply_async(task_id="an id, with: blanks")
        proj.plain.apply_async(task_id="expired", expires=-1)
        proj.app.send_task("proj.unknown", task_id="unknown")
        chain(proj.plain_failing.si().set(task_id="first"), proj.plain.si().set(task_id="second")).delay()
        proj.succeeds.apply_async(task_id="ours")
    """)
    expected = {
        "42": "success",
        "an id, with: blanks": "failure",
        "expired": "expired",
        "unknown": "failure",
        "first": "failure",
        "second": "failure",
        "ours": "success",
    }
    wait_until(lambda: listener.everybody().keys() >= expected.keys(), "every end is announced")
    wait_until(lambda: store_redis.exists("celery-task-meta-built-in"), "Celery's own task has ended too")
    listener.drain()

    assert {each: [heard.completion["status"] for heard in listener.of(each)] for each in expected} == {
        each: [status] for each, status in expected.items()
    }
    assert listener.everybody() == announced(store_redis) == dict.fromkeys(expected, 1)
    assert store_redis.keys("perpetual:*built-in*") == []
