"""The only Redis, which is broker, store and result backend, goes away while bodies run: they end as they end."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.ends import announced, record
from tests.support.refusals import refusing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

# Two plain tasks, of which one fails, and one with code of the user's after its result.
TASKS = """
def work(n):
    ledger.record(n, "begun")
    while not os.path.exists("released"):
        time.sleep(0.02)
    ledger.record(n, "done")
    if n == 1:
        raise ValueError("as it was written")
    return n * 100

@app.task(base=PerpetualTask)
def plain(n):
    return work(n)

class Hooked(PerpetualTask):
    def on_success(self, retval, task_id, args, kwargs):
        ledger.record(args[0], "hook")

@app.task(base=Hooked)
def hooked(n):
    return work(n)

def first():
    return [Item((0,), key="first")]

def named(n):
    "Of the last item there is nothing more to do."
    return [Item((n + 1,), key=f"number {n + 1}")] if n == 0 else None

@app.task(base=PerpetualTask, poll_every=3600, next_batch=first, after_success=named, tenants=["north"])
def chained(n):
    return work(n)

def send():
    return [task.delay(n).id for n, task in enumerate([plain, plain, hooked])]

def results(ids):
    found = [app.AsyncResult(each) for each in ids]
    return [[repr(each.get(propagate=False, timeout=60)), each.state] for each in found]

def statuses(ids):
    ends = perpetual.wait_all(ids, 60)
    return [ends[each].status for each in ids]
"""

AWAY_SECONDS = 3


@contextmanager
def away(server: EmbeddedServer, how: str) -> Iterator[None]:
    """Stop the server, freeze it, or have it refuse, within the block."""
    if how == "stopped":
        server.stop()
        yield
        server.start()
    elif how == "frozen":
        os.kill(server.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(server.pid, signal.SIGCONT)
    else:
        with refusing(server.url, how):
            yield


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("how", ["stopped", "frozen", "full", "read-only"])
def test_bodies_return_while_the_only_redis_is_away(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], pool: str, how: str
) -> None:
    """Outcome, result and hooks are those of the bodies; waiters are woken, by Celery and by us."""
    server = private_redis(appendonly=True)
    proj = project(TASKS, store=server.url, broker=server.url, result_backend=server.url, perpetual_store_timeout=1)
    worker = proj.worker("--prefetch-multiplier=1", pool=pool, concurrency=3).ready()
    with Console(proj) as first, Console(proj) as second:
        ids = first("send()")
        wait_until(lambda: len(proj.rows("begun")) == 3, "three bodies run")
        first.send(f"statuses({ids!r})")
        second.send(f"results({ids!r})")
        with away(server, how):
            proj.write("released", "")
            wait_until(lambda: len(proj.rows("done")) == 3, "three bodies have returned")
            time.sleep(AWAY_SECONDS)  # the measure itself: how long the server is away

        assert first.answer() == ["success", "failure", "success"]
        assert second.answer() == [
            ["0", "SUCCESS"],
            ["ValueError('as it was written')", "FAILURE"],
            ["200", "SUCCESS"],
        ]
    # The waits may have been answered by Celery's results, which are stored first.
    ends = [wait_until(partial(record, proj.redis, each), "the end is stored") for each in ids]
    assert [end["error"] and end["error"]["type"] for end in ends] == [None, "ValueError", None]
    assert Counter({each: announced(proj.redis)[each] for each in ids}) == Counter(ids)
    assert sorted(row.id for row in proj.rows("begun")) == ["0", "1", "2"]
    assert [row.id for row in proj.rows("hook")] == ["2"]
    assert worker.alive


@pytest.mark.parametrize("how", ["stopped", "full"])
def test_what_a_task_names_while_the_only_redis_is_away(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], how: str
) -> None:
    """Items of ``after_success`` wait with the end of their task: they are enqueued when the store is back."""
    server = private_redis(appendonly=True)
    proj = project(TASKS, store=server.url, broker=server.url, perpetual_store_timeout=1)
    proj.beat().ready()
    proj.worker(pool="threads", concurrency=1).ready()
    wait_until(lambda: proj.rows("begun"), "the first one runs")

    with away(server, how):
        proj.write("released", "")
        wait_until(lambda: proj.rows("done"), "it has returned")
        time.sleep(AWAY_SECONDS)  # the measure itself: how long the server is away

    wait_until(lambda: len(proj.rows("done")) == 2, "the one that it has named has run", 40)
    assert [row.id for row in proj.rows("begun")] == ["0", "1"]
