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

#: Once the process dies that publishes the body: alone, or with its whole worker.
PUBLISHING = """
import signal
from celery import chord, signals

@app.task(base=PerpetualTask, acks_late=LATE)
def member(way):
    ledger.record(way, "member")
    return way

@app.task(base=PerpetualTask)
def body(results, way):
    ledger.record(way, f"body {sorted(results)}")

@signals.before_task_publish.connect
def dies(sender=None, body=None, **_):
    way = body[1].get("way") if sender == "proj.body" else None
    if way is None or os.path.exists(f"died {way}"):
        return
    open(f"died {way}", "w").close()
    if way == "with its worker":
        os.kill(os.getppid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
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


#: Celery's shortest claim, five seconds.
SHORT_CLAIMS = {"result_chord_join_timeout": 2, "task_publish_retry": False, "broker_connection_timeout": 2}


@pytest.mark.parametrize(("way", "late"), [("alone", False), ("with its worker", True)])
def test_before_the_body_is_published(
    project: Callable[..., Project], redis_url: str, way: str, late: bool
) -> None:  # fmt: skip
    """Celery keeps the body for the dead process for some seconds; its task runs once more, and publishes it then."""
    proj = project(f"LATE = {late}\n{PUBLISHING}", **SETTINGS, **SHORT_CLAIMS, result_backend=redis_url)
    proj.beat().ready()
    proj.worker(concurrency=2).ready()

    proj.run_python(f"""
        import proj
        proj.chord([proj.member.s("first"), proj.member.s("second")], proj.body.s(way={way!r})).delay()
    """)
    wait_until((proj.folder / f"died {way}").exists, "the process is dead")
    if way == "with its worker":
        proj.worker(concurrency=2).ready()

    wait_until(lambda: sum(final_ends(proj).values()) >= 3, "all have ended")
    ends = [(end["task"], end["status"]) for end in events(proj, "completion") if end["final"]]
    assert sorted(ends) == [("proj.body", "success")] + [("proj.member", "success")] * 2
    assert [row.what for row in proj.rows() if row.id == way] == ["body ['first', 'second']"]
    keys = [f"{PREFIX}:{name}" for name in ("leases", "states", "copies", "resend", "open")]
    wait_until(lambda: not proj.redis.exists(*keys), "nothing of them is left")
