"""Actions of the tests of the public contract on an app in this process, and readings of its broker."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.leases.execution import Execution
from celery_perpetual.recovery.sweep import Sweep, Swept
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from collections.abc import Iterable

    import redis

    from celery_perpetual import Perpetual

CONTRACT = Path(__file__).parent.parent / "contract"


def without_test(table: str, names: Iterable[str]) -> list[str]:
    """The names of a table for which no file of the contract's tests has a ``test_{table}_{name}``."""
    tests = set()
    for file in CONTRACT.glob("test_*.py"):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                tests.add(node.name)
            elif isinstance(node, ast.Assign):  # one test for several names
                tests |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return [name for name in names if f"test_{table}_{name}" not in tests]


def nothing(*args: Any, **kwargs: Any) -> None: ...


def finish(perpetual: Perpetual, task_id: str, status: str = "success", error: Exception | None = None) -> None:
    """Tell the store that a task has ended, as a worker does."""
    perpetual.announcer.announce(TaskEnd(task_id=task_id, task="deliver", status=status, exception=error))


def queued_tasks(client: redis.Redis) -> list[str]:
    """Names of the tasks whose messages wait, oldest first."""
    return [json.loads(message)["headers"]["task"] for message in reversed(client.lrange("celery", 0, -1))]


def begin(perpetual: Perpetual, task_id: str) -> Execution:
    """Ask for a lease, as a worker does that has received the task's message."""
    perpetual.grants.be_a_worker("host")
    execution = Execution(task_id=task_id, nonce=uuid4().hex)
    perpetual.grants.start(perpetual.app.tasks["deliver"], execution, {})
    return execution


def lose(perpetual: Perpetual, *ids: str) -> Swept:
    """Let a worker begin tasks and die, and sweep."""
    for task_id in ids:
        assert begin(perpetual, task_id).leased
    store = perpetual.store
    for worker in store.redis.zrange(store.keys.workers, 0, -1):
        store.redis.zadd(store.keys.workers, {worker: 1})
    return Sweep(perpetual.app, perpetual.grants).once()


def report(perpetual: Perpetual, number: int, queues: tuple[str, ...] = ("celery",), **info: Any) -> None:
    """Report as a worker does that lives."""
    keys, name = perpetual.store.keys, "w@host#1"
    script("heartbeat")(
        perpetual.store, held=keys.held(name), worker_info=keys.worker(name), received=keys.tags(name), worker=name,
        info=json.dumps({"hostname": "w@host", "queues": queues, "active": 0, "begun": 0, **info}), report=number,
        known=number - 1, gone=0, tags=[],
    )  # fmt: skip
