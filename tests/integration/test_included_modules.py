"""An app as a list of modules, each with the tenants of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

ACCOUNTS = """
from celery_perpetual import PerpetualTask
from celery import shared_task
import ledger

def tenants():
    return ["acme", "umbrella"]

def due(poll):
    ledger.record(poll.task, str(poll.tenant))

@shared_task(base=PerpetualTask, poll_every=3600, next_batch=due)
def orders(): ...

@shared_task(base=PerpetualTask, poll_every=3600, next_batch=due, tenants=["shard 1"])
def shards(): ...

@shared_task(base=PerpetualTask, poll_every=3600, next_batch=due, tenants=None)
def alone(): ...
"""


def test_a_module_brings_its_tasks_and_tenants(project: Callable[..., Project]) -> None:
    """By name, in beat and in a process that asks; own tenants come first, also where they are None."""
    proj = project(
        """
        perpetual.include("accounts")
        perpetual.include("empty")
        """
    )
    proj.write("accounts/__init__.py", "tenants = ['never: the nearer one counts']")
    proj.write("accounts/work.py", ACCOUNTS)
    proj.write("empty.py", "")
    proj.write("proj.py", (proj.folder / "proj.py").read_text() + 'perpetual.include("accounts.work")\n')
    proj.beat().ready()

    rows = wait_until(lambda: len(rows := proj.rows()) >= 4 and rows, "all units are polled")
    assert sorted((row.id, row.what) for row in rows) == [
        ("accounts.work.alone", "None"), ("accounts.work.orders", "acme"), ("accounts.work.orders", "umbrella"),
        ("accounts.work.shards", "shard 1"),
    ]  # fmt: skip
    done = proj.celery("perpetual", "check")
    assert "module empty is included, but none of its tasks has poll_every and next_batch" in done.stdout
