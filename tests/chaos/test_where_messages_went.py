"""Where a message went is on record: recovery asks no code of the user's for it, and sends it there again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

SOURCE = """
from celery import group

class Audited(PerpetualTask):
    abstract = True
    def apply_async(self, args=None, kwargs=None, **options):
        ledger.record(str(args[0]), "sent")
        return super().apply_async(args, kwargs, **options)

def by_row(name, args, kwargs, options, task=None, **_):
    if name == "proj.routed":
        ledger.record(str(args[0]), "routed")
        return {"queue": f"q{args[0] % 2}"}

app.conf.task_routes = (by_row,)

def six():
    return [Item((n,), key=n) for n in range(6)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=six)
def routed(n): ...

@app.task(base=Audited, poll_every=3600, next_batch=lambda: [Item((n,), key=n, queue="lost") for n in range(3)])
def audited(n): ...

@app.task(base=PerpetualTask, poll_every=3600, bind=True, max_retries=5,
          next_batch=lambda: [Item((0,), key=0), Item((1,), key=1, queue="lost")])
def slow(self, n):
    ledger.record(self.request.id, f"try {self.request.retries}")
    if self.request.delivery_info["routing_key"] != "slow":
        raise self.retry(queue="slow", priority=3, countdown=0)

HOW = ("retry", "replace", "retry, then group")

@app.task(base=PerpetualTask, poll_every=3600, bind=True, next_batch=lambda: [(how,) for how in HOW])
def hands_on(self, how):
    if how == "retry":
        raise self.retry(args=("another",), queue="later", countdown=0)
    if how == "replace":
        raise self.replace(routed.si(5).set(queue="later"))
    self.retry(queue="overtaken", countdown=0, throw=False)
    raise self.replace(group(routed.si(n).set(queue="parts") for n in (6, 7)))
"""


def ids(proj: Project, queue: str) -> list[str]:
    """Ids of the tasks whose messages wait in a queue."""
    return [json.loads(text)["headers"]["id"] for text in proj.redis.lrange(queue, 0, -1)]


def orders(proj: Project, queue: str) -> set[tuple[str, str, str, int, int]]:
    """Id, task, arguments, retries and nesting of the messages of a queue."""
    found = [json.loads(text)["headers"] for text in proj.redis.lrange(queue, 0, -1)]
    return {
        (each["id"], each["task"], each["argsrepr"], each["retries"], each["replaced_task_nesting"]) for each in found
    }


@pytest.fixture
def proj(project: Callable[..., Project], redis_url: str) -> Project:
    """A leader and a worker that consumes from ``celery`` alone."""
    found = project(SOURCE, **SETTINGS, result_backend=redis_url)
    found.worker(concurrency=1).ready()
    return found


def poll(proj: Project, task: str) -> None:
    """Poll once by hand; the leader polls nothing."""
    proj.run_python(
        f"import proj; assert proj.perpetual.poll(proj.{task}).status == 'enqueued'; proj.perpetual.pause(everything=True)"
    )


def test_only_what_has_left_its_own_queue_is_missing(proj: Project) -> None:
    """One queue of a router waits for its workers, another one has lost its messages: the router is not asked again."""
    poll(proj, "routed")
    waiting, lost = ids(proj, "q0"), ids(proj, "q1")
    assert (len(waiting), len(lost)) == (3, 3)
    asked = len(proj.rows("routed"))
    proj.redis.delete("q1")

    proj.beat().ready()
    wait_until(lambda: len(ids(proj, "q1")) == 3, "what was lost is in its queue again")

    assert sorted(ids(proj, "q1")) == sorted(lost)
    assert ids(proj, "q0") == waiting
    assert len(proj.rows("routed")) == asked


def test_an_own_apply_async_is_called_once_for_every_item(proj: Project) -> None:
    """Neither the search for a lost message nor its resend calls it."""
    poll(proj, "audited")
    lost = ids(proj, "lost")
    proj.redis.delete("lost")

    proj.beat().ready()
    wait_until(lambda: len(ids(proj, "lost")) == 3, "what was lost is in its queue again")

    assert sorted(ids(proj, "lost")) == sorted(lost)
    assert sorted(row.id for row in proj.rows("sent")) == ["0", "1", "2"]


def test_a_retry_that_waits_in_another_queue_is_not_missing(proj: Project) -> None:
    """It stays there, once; when that queue has lost it, it is sent there again, with its priority.

    So is a retry with other arguments, and what replaces an item: as they were. A retry that a group has followed is not.
    """
    poll(proj, "hands_on")
    wait_until(lambda: len(proj.redis.lrange("later", 0, -1)) == 2, "both have sent what follows")
    later = orders(proj, "later")
    wait_until(lambda: len(ids(proj, "parts")) == 2, "the group is sent")
    wait_until(lambda: not proj.redis.exists("perpetual:leases"), "and have ended")
    assert set(proj.redis.hkeys("perpetual:copies")) == {order[0] for order in later}
    assert {order[1:3] for order in later} == {("proj.hands_on", "('another',)"), ("proj.routed", "(5,)")}
    proj.redis.delete("later")
    proj.run_python("import proj; proj.perpetual.resume(everything=True)")
    poll(proj, "slow")
    wait_until(lambda: ids(proj, "slow\x06\x163"), "the task has sent its retry to the other queue")
    (other,) = ids(proj, "lost")
    proj.redis.delete("lost")

    proj.beat().ready()
    wait_until(lambda: ids(proj, "lost") == [other], "a message that was lost is in its queue again")
    wait_until(lambda: orders(proj, "later") == later, "so are the messages that follow")
    (retried,) = ids(proj, "slow\x06\x163")
    assert [row.what for row in proj.rows() if row.id == retried] == ["try 0"]

    proj.redis.delete("slow\x06\x163")
    wait_until(lambda: ids(proj, "slow\x06\x163") == [retried], "the retry is in its queue again")
    (again,) = (json.loads(text) for text in proj.redis.lrange("slow\x06\x163", 0, -1))
    assert again["headers"]["retries"] == 1
    assert [row.what for row in proj.rows() if row.id == retried] == ["try 0"]
