"""Processes that die while Celery counts their task in a chord: the body of the chord runs, and runs once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import PREFIX, SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
import signal
from celery import chord
from celery.backends.redis import RedisBackend

count = RedisBackend.on_chord_part_return

def counting(self, request, *args, **kwargs):
    way = request.args[0]
    def may_die(moment):
        if way.endswith(moment) and not os.path.exists(f"died {way}"):
            open(f"died {way}", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
    may_die("before")
    reply = count(self, request, *args, **kwargs)
    may_die("after")
    return reply

RedisBackend.on_chord_part_return = counting

@app.task(base=PerpetualTask)
def member(way):
    ledger.record(way, "member")
    return way

@app.task(base=PerpetualTask)
def body(results, way):
    ledger.record(way, f"body {sorted(results)}")

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((way,), key=way) for way in WAYS], bind=True)
def replaced(self, way):
    raise self.replace(chord([member.s(f"{way} dies {way}"), member.s("other")], body.s(way)))

WAYS = ("before", "after")
"""


@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_around_the_counting(project: Callable[..., Project], redis_url: str, late: bool) -> None:
    """Its success is stored by then, so the task does not run again, and the chord goes on."""
    proj = project(SOURCE, **{**SETTINGS, "perpetual_lease_ttl": 60}, result_backend=redis_url, task_acks_late=late)
    proj.worker(concurrency=2).ready()

    proj.run_python("import proj; proj.perpetual.poll('proj.replaced')")

    wait_until(lambda: sum(final_ends(proj).values()) >= 6, "all have ended")
    ends = [(end["task"], end["status"]) for end in events(proj, "completion")]
    assert sorted(ends) == [("proj.body", "success")] * 2 + [("proj.member", "success")] * 4
    assert sorted((row.id, row.what) for row in proj.rows()) == [
        ("after", "body ['after dies after', 'other']"), ("after dies after", "member"),
        ("before", "body ['before dies before', 'other']"), ("before dies before", "member"),
        ("other", "member"), ("other", "member"),
    ]  # fmt: skip
    assert all((proj.folder / f"died {way} dies {way}").exists() for way in ("before", "after"))
    assert proj.redis.hget(f"{PREFIX}:u:perpetual:proj.replaced", "inflight") == "0"
    keys = [f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")
