"""Executions that have handed their id on and end badly all the same: only what follows them ends their task."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import PREFIX, SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: How the first execution of each goes on after it has sent its retry.
WAYS = ("exits", "raises", "is rejected", "ignores itself", "hangs", "raises in its hook", "leaves by an interrupt")

SOURCE = f"""
import sys
from celery import chain
from celery.exceptions import Ignore, Reject

WAYS = {WAYS}

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((way,), key=way) for way in WAYS], bind=True)
def item(self, way):
    return go_on(self, way)

class Hooked(PerpetualTask):
    def on_retry(self, exc, task_id, args, kwargs, einfo):
        if args[0] == "raises in its hook":
            raise RuntimeError("the hook itself")

@app.task(base=Hooked, bind=True, time_limit=1)
def first(self, way):
    return go_on(self, way)

@app.task(base=PerpetualTask)
def second(way):
    ledger.record(way, "second")

def go_on(self, way):
    ledger.record(way, f"{{self.name[5:]}} {{self.request.retries}}")
    if self.request.retries:
        return way
    self.retry(countdown=1.5, throw=way == "raises in its hook")
    if way == "exits":
        sys.exit(3)
    elif way == "raises":
        raise ValueError(way)
    elif way == "is rejected":
        raise Reject(way, requeue=False)
    elif way == "ignores itself":
        raise Ignore
    elif way == "hangs":
        time.sleep(600)
    raise KeyboardInterrupt

item.time_limit = 1
"""


@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_only_the_retry_ends_the_task(project: Callable[..., Project], redis_url: str, late: bool) -> None:
    """Of an item and of the first task of a chain: one success, and what waits behind it runs once."""
    proj = project(SOURCE, **SETTINGS, result_backend=redis_url, task_acks_late=late)
    proj.worker(concurrency=4).ready()

    proj.run_python("""
        import proj
        for way in proj.WAYS:
            proj.chain(proj.first.s(way), proj.second.s()).apply_async()
        proj.perpetual.poll("proj.item")
    """)

    wait_until(lambda: sum(final_ends(proj).values()) >= 3 * len(WAYS), "all have ended")
    ends = [(end["task"], end["status"]) for end in events(proj, "completion")]
    assert Counter(ends) == {(f"proj.{name}", "success"): len(WAYS) for name in ("item", "first", "second")}
    runs = ["first 0", "first 1", "item 0", "item 1", "second"]
    assert {way: sorted(row.what for row in proj.rows() if row.id == way) for way in WAYS} == dict.fromkeys(WAYS, runs)
    assert proj.redis.hget(f"{PREFIX}:u:perpetual:proj.item", "inflight") == "0"
    keys = [f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")
