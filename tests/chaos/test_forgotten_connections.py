"""A firewall between worker and store drops connections that were idle, and says nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

TASKS = """
@app.task(base=PerpetualTask, bind=True)
def work(self, n):
    ledger.record(n, f"token {perpetual.lease_token()}")
"""

TIMEOUT = 3.0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_has_its_lease_although_the_connection_was_forgotten(
    project: Callable[..., Project], redis_url: str, pool: str
) -> None:
    """Each process tries once over a new connection before it takes the store for away."""
    port = int(redis_url.rsplit(":", 1)[1].split("/", 1)[0])
    with Proxy(port) as proxy:
        store = redis_url.replace(str(port), str(proxy.port))
        proj = project(TASKS, perpetual_store_url=store, perpetual_store_timeout=TIMEOUT)
        worker = proj.worker(pool=pool, concurrency=1).ready()
        proj.run_python("import proj; proj.work.delay(1)")
        wait_until(lambda: len(proj.rows()) == 1, "the first task runs")

        proxy.forget()
        proj.run_python("import proj; proj.work.delay(2)")
        wait_until(lambda: len(proj.rows()) == 2, "the second task runs")

        tokens = [row.what.split()[1] for row in proj.rows()]
        assert all(token.isdigit() for token in tokens), tokens
        assert int(tokens[0]) < int(tokens[1])
        assert worker.alive
        worker.kill9()
