"""``perpetual_store_down = "hold"``: waiting for the store costs a task nothing."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import redis

from celery_perpetual.events import LEASE_WAITING
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

SOURCE = """
@app.task(base=PerpetualTask, time_limit=2)
def late(name):
    ledger.record(name)

@app.task(base=PerpetualTask, acks_late=False, time_limit=2)
def early(name):
    ledger.record(name)
"""


def ran(proj: Project) -> list[str]:
    return sorted(row.id for row in proj.rows())


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_task_waits_longer_than_its_time_limit(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """The store is gone, or stands still, for longer than any limit; each task runs once when it is back."""
    server = private_redis(appendonly=True)
    proj = project(
        SOURCE, **SETTINGS, perpetual_store_url=server.url, perpetual_store_down="hold", perpetual_store_timeout=3
    )
    worker = proj.worker(pool=pool, concurrency=2).ready()
    store = redis.Redis.from_url(server.url)

    server.stop()
    sent = "import proj; [t.apply_async([name := f'{n} {t.__name__}'], task_id=name) for t in (proj.late, proj.early)"
    proj.run_python(f"{sent} for n in ['gone', 'revoked']]")
    worker.wait_for_event(LEASE_WAITING, count=2)
    time.sleep(3)  # the measure itself: longer than the limit
    assert ran(proj) == []
    proj.run_python("import proj; proj.app.control.revoke(['revoked late', 'revoked early'], reply=True)")
    server.start()
    wait_until(lambda: ran(proj) == ["gone early", "gone late"], "they run")
    # The stream is in the store.
    proj.redis = redis.Redis.from_url(server.url, decode_responses=True)
    ends = {(f"gone {task}", "success"): 1 for task in ("early", "late")}
    ends |= {(f"revoked {task}", "revoked"): 1 for task in ("early", "late")}
    # A store that stood still before that would let a limit end a task that has run.
    wait_until(lambda: final_ends(proj) == ends, "each has one end")

    store.client_pause(4000)
    proj.run_python(f"{sent} for n in ['still']]")
    wait_until(lambda: ran(proj) == ["gone early", "gone late", "still early", "still late"], "they run")

    ends |= {(f"still {task}", "success"): 1 for task in ("early", "late")}
    wait_until(lambda: final_ends(proj) == ends, "each has one end")


def test_a_worker_stops_while_tasks_wait(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It does not wait for the store, and the next worker runs them: those too that the broker does not have any more."""
    server = private_redis(appendonly=True)
    proj = project(
        SOURCE, **SETTINGS, perpetual_store_url=server.url, perpetual_store_down="hold", perpetual_store_timeout=1
    )
    worker = proj.worker(concurrency=2).ready()
    server.stop()
    proj.run_python("import proj; proj.late.delay('late'); proj.early.delay('early')")
    worker.wait_for_event(LEASE_WAITING, count=2)

    worker.terminate()
    server.start()
    proj.worker(concurrency=2).ready()

    wait_until(lambda: ran(proj) == ["early", "late"], "both run")
