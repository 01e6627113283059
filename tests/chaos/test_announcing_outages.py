"""The store freezes, dies or goes away while tasks end: no task suffers from it, and every end is announced."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from contextlib import contextmanager
from itertools import product
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from celery_perpetual.embedded import EmbeddedServerError
from tests.support import wait_until
from tests.support.ends import announced, batch, by_status, record
from tests.support.refusals import MORE_WAYS, WAYS, refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

# The first task of a batch waits for its sign.
TASKS = """
def rows(poll):
    return [Item((number,), key=number) for number in range(ITEMS)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=rows, bind=True)
def work(self, number):
    ledger.record(number, "begun")
    while not number and not os.path.exists("released"):
        time.sleep(0.02)
    # How long the task takes.
    time.sleep(PAUSE)
    ledger.record(number, "done")
    if number % 10 == 7:
        raise ValueError("as it was told")

@app.task(base=PerpetualTask)
def warm_up():
    pass
"""

TIMEOUT = 1.0
#: Seconds that a busy machine may add.
SLACK = 1.0

POOLS = pytest.mark.parametrize("pool", ["prefork", "threads"])


def poll(proj: Project) -> tuple[str, list[str]]:
    """Enqueue a batch; return the poll's id and its tasks' ids."""
    code = "import json, proj; o = proj.perpetual.poll('proj.work'); print(json.dumps([o.poll_id, o.task_ids]))"
    poll_id, ids = json.loads(proj.run_python(code))
    return poll_id, ids


def check(proj: Project, results: redis.Redis, poll_id: str, ids: list[str]) -> None:
    """Wait until every end is announced: once each, as Celery stored it, and the books are closed."""
    wait_until(lambda: batch(proj.redis, poll_id).get("left") == "0", "every end is stored", timeout=60)
    own = {index: (record(proj.redis, each) or {}).get("status") for index, each in enumerate(ids)}
    assert own == {index: "failure" if index % 10 == 7 else "success" for index in range(len(ids))}
    stored = [json.loads(results.get(f"celery-task-meta-{each}"))["status"].lower() for each in ids]
    assert stored == list(own.values())
    assert [announced(proj.redis)[each] for each in ids] == [1] * len(ids)
    assert by_status(batch(proj.redis, poll_id)) == Counter(own.values())
    assert proj.redis.hget("perpetual:u:perpetual:proj.work", "inflight") == "0"
    assert proj.redis.keys("perpetual:keys:*") + proj.redis.keys("perpetual:[id]:*") == []


@pytest.fixture
def losable(
    project: Callable[..., Project], redis_url: str, private_redis: Callable[..., EmbeddedServer]
) -> Callable[..., tuple[EmbeddedServer, Project]]:
    """Write a project whose store is a server that may go away; broker and result backend stay."""

    def write(*, items: int, pause: float, **config: Any) -> tuple[EmbeddedServer, Project]:
        try:
            server = private_redis(appendonly=True, options={"enable-debug-command": "local"})
        except EmbeddedServerError:  # servers before Redis 7 always allow it
            server = private_redis(appendonly=True)
        proj = project(
            f"ITEMS, PAUSE = {items}, {pause}\n{TASKS}",
            broker=redis_url,
            store=server.url,
            result_backend=redis_url,
            perpetual_store_timeout=TIMEOUT,
            **config,
        )
        return server, proj

    return write


@contextmanager
def unavailable(server: EmbeddedServer, how: str) -> Iterator[None]:
    """Freeze the server, kill it, or have it refuse, within the block."""
    if how in (*WAYS, *MORE_WAYS):
        with refusing(server.url, how):
            yield
    elif how == "gone":
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.running, "the server is gone")
        yield
        server.restart()
    else:
        os.kill(server.pid, signal.SIGSTOP)
        wait_until(lambda: psutil.Process(server.pid).status() == psutil.STATUS_STOPPED, "the server is frozen")
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize(
    ("pool", "how"),
    [
        *product(("prefork", "threads"), ("frozen", "frozen before the first contact", "gone", *WAYS)),
        *product(("prefork",), MORE_WAYS),
    ],
)
def test_a_store_that_does_not_answer_delays_tasks_once(
    losable: Callable[..., tuple[EmbeddedServer, Project]], store_redis: redis.Redis, pool: str, how: str
) -> None:
    """The first end waits no longer than perpetual_store_timeout, the others not at all, and all are announced later."""
    # All at hand: fetching more messages may take Celery a second, too.
    server, proj = losable(items=10, pause=0, worker_prefetch_multiplier=20)
    worker = proj.worker(pool=pool, concurrency=1).ready()
    if how != "frozen before the first contact":
        warm = proj.run_python("import proj; print(proj.warm_up.delay().id)").strip()
        wait_until(lambda: record(proj.redis, warm), "the worker knows the store")
    poll_id, ids = poll(proj)
    wait_until(lambda: proj.rows("begun"), "the first task runs")

    with unavailable(server, how):
        proj.write("released", "")
        wait_until(lambda: len(proj.rows("done")) == 10, "every task has run")
        begun, done = ([row.time for row in proj.rows(what)] for what in ("begun", "done"))
        waits = [later - earlier for earlier, later in zip(done, begun[1:], strict=False)]
        assert max(waits) < TIMEOUT + SLACK
        assert sum(waits) < TIMEOUT + 2 * SLACK
    check(proj, store_redis, poll_id, ids)
    assert len(proj.rows("begun")) == 10
    assert worker.alive


@POOLS
def test_every_end_is_told_though_the_store_dies_while_tasks_end(
    losable: Callable[..., tuple[EmbeddedServer, Project]], store_redis: redis.Redis, pool: str
) -> None:
    """The store is killed and comes back with its data three times in the middle of two hundred ends."""
    server, proj = losable(items=200, pause=0.05)
    proj.write("released", "")
    poll_id, ids = poll(proj)
    worker = proj.worker(pool=pool, concurrency=3)

    for share in (30, 80, 130):
        wait_until(lambda share=share: len(proj.rows("done")) >= share, f"{share} tasks have run")
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda share=share: len(proj.rows("done")) >= share + 20, "tasks end without the store")
        server.restart()

    check(proj, store_redis, poll_id, ids)
    assert len(proj.rows("begun")) == 200
    assert worker.alive
