"""Tasks whose time limit is shorter than the time that a process waits for the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import redis

from celery_perpetual.events import LEASE_SKIPPED
from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

SOURCE = """
def note(self):
    ledger.record(self.request.id)
    while self.request.id.startswith("early") and not os.path.exists("stands still"):
        time.sleep(0.02)

for name, body, options in (
    ("soft", note, {"soft_time_limit": 1, "ignore_result": True}),
    ("hard", note, {"time_limit": 1, "ignore_result": True}),
    ("early, with a result", note, {"time_limit": 2}),
    ("early, without one", note, {"time_limit": 2, "ignore_result": True}),
):
    app.task(body, name=name, base=PerpetualTask, bind=True, **options)

def send(*names, **options):
    for name in names:
        app.tasks[name].apply_async(task_id=options.pop("task_id", name), **options)
"""

EARLY, LATE = ("early, with a result", "early, without one"), ("soft", "hard")


def test_a_store_that_stands_still_fails_no_task_of_a_short_limit(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A start and an end wait for it a while. Each task goes on in its time, and ends when it is back."""
    server = private_redis()
    proj = project(SOURCE, **SETTINGS, perpetual_store_url=server.url, result_backend=server.url)
    worker = proj.worker(concurrency=5).ready()
    store = redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=30)

    proj.run_python(f"import proj; proj.send(*{EARLY})")
    wait_until(lambda: {row.id for row in proj.rows()} == set(EARLY), "two have begun")
    store.client_pause(5000)
    proj.write("stands still", "")
    proj.run_python(
        f"import proj; proj.send(*{LATE}); proj.send('soft', task_id='of its message', soft_time_limit=1.5)"
    )

    ran = {*EARLY, *LATE, "of its message"}
    wait_until(lambda: {row.id for row in proj.rows()} == ran, "all have run", 4)
    worker.wait_for_event(LEASE_SKIPPED, count=3)
    proj.redis = store  # the stream is in the store
    wait_until(lambda: final_ends(proj) == {(name, "success"): 1 for name in ran}, "each has succeeded, once")
    assert sorted(row.id for row in proj.rows()) == sorted(ran)
    state = "import proj; print(proj.app.AsyncResult('early, with a result').state)"
    wait_until(lambda: "SUCCESS" in proj.run_python(state), "its result is stored")


def test_a_limit_that_the_pool_does_not_keep_costs_no_lease(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Threads have no limits: a task waits for a store that pauses as long as one without a limit."""
    server = private_redis()
    proj = project(SOURCE, **SETTINGS, perpetual_store_url=server.url)
    worker = proj.worker(pool="threads", concurrency=1).ready()
    proj.redis = redis.Redis.from_url(server.url, decode_responses=True, socket_timeout=30)

    proj.run_python(
        f"import proj, redis; redis.Redis.from_url({server.url!r}).client_pause(1200); proj.send('soft', 'hard')"
    )

    wait_until(lambda: final_ends(proj) == {(name, "success"): 1 for name in LATE}, "each has succeeded")
    assert worker.events(LEASE_SKIPPED) == []
