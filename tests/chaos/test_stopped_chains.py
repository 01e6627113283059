"""Chains and chords that a task stops without an error of its own: what waits behind it ends too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, events, final_ends

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

#: How the first task of a replacement stops it -> how the item ends then.
STOPS = {
    "ignored": "ignored", "rejected": "failure", "revoked": "revoked", "expired": "expired", "unknown": "failure",
    "purged": "revoked", "ignored member": "ignored", "ignored, twice": "ignored", "goes on": "success",
}  # fmt: skip

SOURCE = f"""
from celery import chain, chord, signature
from celery.exceptions import Ignore, Reject

WAYS = {list(STOPS)}

@app.task(bind=True)
def stops(self, way):
    if way == "rejected":
        raise Reject("not mine", requeue=False)
    if way == "goes on":
        raise self.replace(step.si())
    raise Ignore

@app.task
def step():
    pass

@app.task(bind=True, base=PerpetualTask)
def last(self, way):
    return way

@app.task(bind=True, base=PerpetualTask)
def replaced_once_more(self, way):
    raise self.replace(chain(stops.si(way), last.si(way)))

@app.task(base=PerpetualTask, bind=True, poll_every=3600, next_batch=lambda: [Item((way,), key=way) for way in WAYS])
def replaces(self, way):
    first = stops.si(way)
    if way == "revoked":
        first.freeze()
        app.control.revoke(first.id, reply=True)
    elif way == "expired":
        first.set(expires=0.001)
    elif way == "unknown":
        first = signature("proj.unknown", immutable=True, app=app)
    elif way == "purged":
        first.set(queue="purged")
    elif way == "ignored member":
        raise self.replace(chord([step.si(), first], last.si(way)))
    raise self.replace(chain(first, step.si(), (replaced_once_more if "twice" in way else last).si(way)))
"""


def ends(proj: Project) -> dict[str, str]:
    """How each item has ended."""
    return {str(end["key"]): end["status"] for end in events(proj, "completion")}


def test_an_item_that_has_replaced_itself_by_what_is_stopped(project: Callable[..., Project], redis_url: str) -> None:
    """It ends, its key is free, and the worker of the first task need not know of the item."""
    proj = project(SOURCE, **{**SETTINGS, "result_backend": redis_url})
    proj.worker(concurrency=4).ready()

    proj.run_python("import proj; proj.perpetual.poll('proj.replaces')")
    wait_until(lambda: proj.redis.llen("purged") == 1, "its first task is in a queue that is purged")
    proj.run_python("import proj; proj.perpetual.purge('purged')")

    wait_until(lambda: len(final_ends(proj)) == len(STOPS), "all have ended")
    assert ends(proj) == STOPS
    assert sum(final_ends(proj).values()) == len(STOPS)
    assert proj.redis.hget("perpetual:u:perpetual:proj.replaces", "inflight") == "0"
    assert not proj.redis.exists("perpetual:open", "perpetual:states", "perpetual:copies")
