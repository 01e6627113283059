"""``perpetual.cycle()``: a maintenance pass from any process, without any beat."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.leased_tasks import SETTINGS, TASKS, TTL, all_well, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support import Project


@pytest.fixture
def consoles() -> Iterator[Callable[[Project], Console]]:
    """Consoles that end with the test."""
    with ExitStack() as stack:
        yield lambda proj: stack.enter_context(Console(proj))


def test_a_pass_publishes_what_a_dead_process_has_committed(
    project: Callable[..., Project], consoles: Callable[[Project], Console]
) -> None:
    """A process commits more items than one call publishes and is killed; a pass brings every one to the broker."""
    proj = project(f"ITEMS = 600\n{TASKS}", **SETTINGS)
    died = subprocess.run(
        [sys.executable, "-c", "from proj import *; perpetual.poll('proj.deliver')"],
        cwd=proj.folder, env=proj.env({"PERPETUAL_CRASH_AT": "poll.committed"}), check=False, capture_output=True,
    )  # fmt: skip
    assert (died.returncode, proj.redis.llen("celery")) == (-9, 0)

    console = consoles(proj)
    first, second = console("perpetual.cycle()"), console("perpetual.cycle()")

    assert (first["relayed"], first["errors"], first["busy"]) == (600, {}, False)
    assert (second["relayed"], second["errors"]) == (0, {})
    assert proj.redis.llen("celery") == 600


def test_passes_recover_the_tasks_of_a_killed_worker(
    project: Callable[..., Project], consoles: Callable[[Project], Console]
) -> None:
    """Two tasks run and others are received when the worker is killed; no beat runs, and all of them end."""
    proj = project(f"ITEMS = 6\n{TASKS}", **SETTINGS)
    console = consoles(proj)
    assert console("perpetual.poll('proj.deliver')")["count"] == 6
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    victim.kill9()
    proj.write("released", "")
    proj.worker().ready()

    results: list[dict[str, Any]] = []
    wait_until(
        lambda: results.append(console("perpetual.cycle()")) or sum(each["swept"] for each in results) == 2,
        "a pass takes the leases of the dead worker",
        TTL + 20,
    )
    wait_until(
        lambda: results.append(console("perpetual.cycle()")) or len(tokens(proj, "end")) == 6, "all six end", TTL + 20
    )

    all_well(proj, 6)
    assert len(events(proj, "lease.recovered")) == sum(each["resent"] for each in results) >= 2
    assert not any(each["errors"] for each in results)


def test_two_passes_at_once_exclude_each_other(
    project: Callable[..., Project], consoles: Callable[[Project], Console]
) -> None:
    """While one is under way another answers ``busy`` and does nothing; a dead one holds the others up for seconds."""
    proj = project(f"ITEMS = 1\n{TASKS}", **SETTINGS)
    console = consoles(proj)
    assert console("perpetual.cycle()")["busy"] is False

    proj.redis.set("perpetual:cycle", "another process", px=1500)
    assert console("perpetual.cycle()")["busy"] is True

    wait_until(lambda: not console("perpetual.cycle()")["busy"], "the lock of the dead process expires", 10)
    assert not proj.redis.exists("perpetual:cycle")
