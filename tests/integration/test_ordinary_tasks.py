"""Tasks in a worker that loads the package: their bodies see what they see without it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
from celery import Task

def tell(task, what):
    request = task.request
    ledger.record("seen", [what, request.id, request.called_directly, list(request.args or ()), request.retries])

@app.task(bind=True)
def inner(self, depth):
    tell(self, f"inner {depth}")

@app.task(bind=True, max_retries=1)
def plain(self, depth=0):
    tell(self, f"plain {depth}")
    if depth == 0:
        self(1)
        inner(2)
        inner.apply((3,), task_id="eager")
        if not self.request.retries:
            raise self.retry(countdown=0)
    ledger.record("done", depth)

class Own(Task):
    def __call__(self, *args, **kwargs):
        tell(self, "own before")
        result = super().__call__(*args, **kwargs)
        tell(self, "own after")
        return result

@app.task(bind=True, base=Own)
def own(self):
    tell(self, "own")
    ledger.record("done", "own")
"""


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.parametrize("leases", ["perpetual", "all"])
def test_bodies_see_what_they_see_without_the_package(
    project: Callable[..., Project], raw_redis: object, pool: str, leases: str
) -> None:
    """Ids, arguments and retries of a body's request, of a task that it calls, and of one that it applies."""

    def seen(*, perpetual: bool) -> list[str]:
        raw_redis.flushdb()  # type: ignore[attr-defined]
        config = {"perpetual_leases": leases} if perpetual else {}
        name = "proj" if perpetual else "bare"
        proj = project(SOURCE, name=name, perpetual=perpetual, **config)
        worker = proj.worker(pool=pool, concurrency=1).ready()
        proj.run_python(f"import {name}; {name}.plain.apply_async(task_id='p'); {name}.own.apply_async(task_id='o')")
        wait_until(lambda: {"0", "own"} <= {row.what for row in proj.rows() if row.id == "done"}, "both have run")
        worker.kill9()
        return [row.what for row in proj.rows() if row.id == "seen"]

    with_it, without = seen(perpetual=True), seen(perpetual=False)

    assert sorted(with_it) == sorted(without)
    assert len(without) == 2 * 4 + 3


@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
def test_leases_for_all_without_completions_for_all(project: Callable[..., Project], early: bool) -> None:
    """Ordinary tasks run once, whatever their end, and give their leases back; nothing is announced."""
    proj = project(
        f"""
        @app.task(acks_late=not {early})
        def ordinary(how):
            ledger.record(how)
            if how == "fail":
                raise ValueError(how)

        @app.task(base=PerpetualTask)
        def ours(how):
            ledger.record(how)
        """,
        perpetual_leases="all",
        perpetual_lease_ttl=1,
    )
    proj.worker().ready()
    keys = ("perpetual:leases", "perpetual:copies", "perpetual:states")

    proj.run_python("from proj import *; ordinary.delay('fail'); ordinary.delay('succeed'); ours.delay('ours')")
    wait_until(lambda: len(proj.rows()) == 3, "all have run")
    (worker,) = proj.redis.keys("perpetual:w:*")
    first = proj.redis.hget(worker, "at")
    wait_until(lambda: int(proj.redis.hget(worker, "at")) > int(first) + 1000, "several audits")

    assert sorted(row.id for row in proj.rows()) == ["fail", "ours", "succeed"]
    assert not proj.redis.exists(*keys)
    assert len(proj.redis.keys("perpetual:completion:*")) == 1
