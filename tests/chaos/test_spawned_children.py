"""Pool processes that are started anew instead of forked know nothing of this package: the worker refuses to start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SPAWNING = """
import billiard

app.conf.worker_pool_start_method = "spawn"
billiard.set_start_method("spawn", force=True)
"""


def test_a_worker_that_would_spawn_its_children(project: Callable[..., Project]) -> None:
    """It says what is wrong and what to set; a pool without processes starts."""
    proj = project(SPAWNING)

    refused = proj.worker()
    wait_until(lambda: not refused.alive, "it has ended")

    assert refused.exit_code == 1
    assert "worker_pool_start_method: got 'spawn'" in refused.log()
    proj.worker(pool="threads").ready()
