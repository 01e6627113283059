"""The store comes back with an older state of its own data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, all_well, final_ends, tokens
from tests.support.older import copy_files, put_back

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_runs_under_a_forgotten_lease_ends_once(
    project: Callable[..., Project],
    redis_url: str,
    private_redis: Callable[..., EmbeddedServer],
    tmp_path: Path,
    pool: str,
) -> None:
    """The store forgets that an item was begun: its end counts all the same, and it does not run again."""
    server = private_redis(appendonly=True)
    source = TASKS.replace("ITEMS", "2")
    proj = project(source, broker=redis_url, store=server.url, **SETTINGS)
    proj.beat()
    wait_until(lambda: proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "2", "two items wait")
    wait_until(lambda: not proj.redis.exists("perpetual:outbox"), "and are in their queue")
    copy_files(server, tmp_path / "copy")
    worker = proj.worker(pool=pool, concurrency=2).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both run")

    put_back(server, tmp_path / "copy")
    assert not proj.redis.exists("perpetual:leases")
    proj.write("released", "")

    all_well(proj, 2)
    assert sum(map(len, tokens(proj, "begin").values())) == 2
    assert set(final_ends(proj).values()) == {1}
    assert worker.alive
