"""An item's key and room become free once, at the real end of its task, however it ends."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import celery
import pytest

from tests.support import wait_until
from tests.support.console import Console
from tests.support.outside import messages, seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

UNIT = "perpetual:proj.find"

# The tasks look at the store themselves: between two attempts nobody else can say that the key was held all the time.
TASKS = """
import signal

from celery.exceptions import Ignore, Reject
from redis import Redis

store = Redis.from_url(app.conf.broker_url, decode_responses=True)

def note(task, key):
    holder = store.hget("perpetual:keys:perpetual:proj.find", key)
    ledger.record(key, "holds its key" if holder == task.request.id else f"key held by {holder}")

def next_batch(poll):
    return [Item((name,), key=name, task=f"proj.{name}", **options) for name, options in BATCH.items()]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=next_batch)
def find():
    pass

@app.task(bind=True, acks_late=True)
def succeed(self, key):
    note(self, key)

@app.task(bind=True)
def acked_early(self, key):
    note(self, key)

@app.task(bind=True, acks_late=True)
def fail(self, key):
    note(self, key)
    raise ValueError("as it was told")

@app.task(bind=True, acks_late=True)
def recover(self, key):
    note(self, key)
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)

@app.task(bind=True, acks_late=True, max_retries=1)
def give_up(self, key):
    note(self, key)
    raise self.retry(countdown=0.1, exc=ValueError("again and again"))

@app.task(bind=True, acks_late=True)
def ignore(self, key):
    note(self, key)
    raise Ignore

@app.task(bind=True, acks_late=True)
def reject(self, key):
    note(self, key)
    raise Reject("not mine", requeue=False)

@app.task(bind=True, acks_late=True)
def send_back(self, key):
    note(self, key)
    if sum(row[0] == key for row in ledger.rows()) < 3:
        raise Reject("not now", requeue=True)

@app.task(bind=True, acks_late=True)
def replace(self, key):
    note(self, key)
    raise self.replace(succeed.si(key))

@app.task(bind=True, acks_late=True)
def replace_by_failing(self, key):
    note(self, key)
    raise self.replace(fail.si(key))

@app.task(bind=True, acks_late=True)
def revoked(self, key):
    ledger.record(key, "ran")

@app.task(bind=True, acks_late=True)
def expired(self, key):
    ledger.record(key, "ran")

@app.task(bind=True, acks_late=True)
def linger(self, key):
    note(self, key)
    time.sleep(600)

@app.task(bind=True, acks_late=True)
def terminated(self, key):
    note(self, key)
    time.sleep(600)

@app.task(bind=True, acks_late=True)
def killed(self, key):
    note(self, key)
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def killed_once(self, key):
    note(self, key)
    if sum(row[0] == key for row in ledger.rows()) == 1:
        os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, acks_late=True, acks_on_failure_or_timeout=False, time_limit=1)
def late_once(self, key):
    note(self, key)
    if sum(row[0] == key for row in ledger.rows()) == 1:
        time.sleep(600)
"""

EVERYWHERE: dict[str, dict[str, Any]] = {
    "succeed": {},
    "acked_early": {},
    "fail": {},
    "recover": {},
    "give_up": {},
    "ignore": {},
    "reject": {},
    "send_back": {},
    "replace": {},
    "replace_by_failing": {},
    "unknown": {},
    "revoked": {"queue": "later"},
    "expired": {"queue": "later", "expires": 0.2},
}
#: Celery fails a rejected task since 5.7.
REJECTED = "failure" if celery.VERSION >= (5, 7) else "rejected"
STATUSES = Counter(success=5, failure=4, ignored=1, revoked=1, expired=1) + Counter([REJECTED])
RUNS = {
    "succeed": 1, "acked_early": 1, "fail": 1, "recover": 3, "give_up": 2, "ignore": 1, "reject": 1, "send_back": 3,
    "replace": 2, "replace_by_failing": 2,
}  # fmt: skip


def source(batch: dict[str, dict[str, Any]]) -> str:
    """The project's source, with this batch."""
    return f"{TASKS}\nBATCH = {batch!r}\n"


def batch_of(client: redis.Redis, poll_id: str) -> dict[str, str]:
    """The batch as the store counts it."""
    found: dict[str, str] = client.hgetall(f"perpetual:p:{poll_id}")
    return found


def counters(batch: dict[str, str]) -> dict[str, int]:
    """How many items ended how."""
    own = {"unit", "task", "n", "left", "pub", "window", "at"}
    return {name: int(value) for name, value in batch.items() if name not in own}


def in_flight(client: redis.Redis) -> int:
    """What the unit's room is told."""
    return int(client.hget(f"perpetual:u:{UNIT}", "inflight") or 0)


def check_books(client: redis.Redis, poll_id: str, statuses: dict[str, int]) -> None:
    """Wait until every item of a batch has ended, then compare everything that is left of it."""
    total = sum(statuses.values())
    wait_until(lambda: batch_of(client, poll_id).get("left") == "0", "every item of the batch has ended")

    assert counters(batch_of(client, poll_id)) == statuses
    assert batch_of(client, poll_id)["n"] == str(total)
    assert in_flight(client) == 0
    assert client.keys("perpetual:i:*") + client.keys("perpetual:d:*") + client.keys("perpetual:keys:*") == []
    assert 0 < client.pttl(f"perpetual:p:{poll_id}") <= 7 * 24 * 3600 * 1000


def check_keys_held(proj: Project, runs: dict[str, int]) -> None:
    """Every attempt of every task found its own id behind its key."""
    assert {row.what for row in proj.rows()} == {"holds its key"}
    assert {key: sum(row.id == key for row in proj.rows()) for key in runs} == runs


def run_everything(proj: Project, console: Console, client: redis.Redis, expected: dict[str, int]) -> str:
    """Poll by hand, revoke one task before a worker sees it, let another expire; return the poll's id."""
    outcome = console("perpetual.poll('proj.find')")
    assert outcome["status"] == "enqueued"
    assert outcome["count"] == len(outcome["task_ids"]) == sum(expected.values())
    later = {message.task: message for message in messages(client, "later")}
    assert later.keys() == {"proj.revoked", "proj.expired"}
    revoked = console(f"app.control.revoke({later['proj.revoked'].id!r}, reply=True, timeout=10, limit=1)")
    assert "ok" in str(revoked)
    expires = seconds(later["proj.expired"].headers["expires"])
    wait_until(lambda: time.time() > expires, "one task has expired")
    console("app.control.add_consumer('later', reply=True, timeout=10, limit=1)")
    return str(outcome["poll_id"])


def test_every_end_in_a_prefork_worker_is_settled_once(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Whether it returned, raised, was retried, stopped, refused or killed: its real end frees key and room, once."""
    batch = {**EVERYWHERE, "linger": {"time_limit": 1}, "killed": {}, "terminated": {}}
    statuses = STATUSES + Counter(failure=2, revoked=1)
    proj = project(source(batch))
    worker = proj.worker(concurrency=3).ready()
    with Console(proj) as console:
        poll_id = run_everything(proj, console, store_redis, statuses)
        wait_until(lambda: [row for row in proj.rows() if row.id == "terminated"], "the endless task runs")
        held = store_redis.hget(f"perpetual:keys:{UNIT}", "terminated")
        console(f"app.control.revoke({held!r}, terminate=True, signal='SIGKILL')")

        check_books(store_redis, poll_id, statuses)
        check_keys_held(proj, {**RUNS, "linger": 1, "killed": 1, "terminated": 1, "revoked": 0, "expired": 0})
        assert worker.alive

        again = console("perpetual.poll('proj.find')")
        assert (again["count"], again["duplicates"]) == (len(batch), 0)


def test_every_end_in_a_threaded_worker_is_settled_once(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """The same ends where the worker's main process runs the tasks on threads."""
    proj = project(source(EVERYWHERE))
    proj.worker(pool="threads", concurrency=4).ready()
    with Console(proj) as console:
        poll_id = run_everything(proj, console, store_redis, STATUSES)

        check_books(store_redis, poll_id, STATUSES)
        check_keys_held(proj, {**RUNS, "revoked": 0, "expired": 0})


@pytest.mark.parametrize("name", ["killed_once", "late_once"])
def test_a_message_that_comes_back_keeps_its_key(
    project: Callable[..., Project], store_redis: redis.Redis, name: str
) -> None:
    """A task that Celery puts back into the queue, after a lost child or a time limit, has not ended."""
    proj = project(source({name: {}}))
    proj.worker(concurrency=1).ready()
    with Console(proj) as console:
        poll_id = console("perpetual.poll('proj.find')")["poll_id"]

        wait_until(lambda: len(proj.rows()) >= 2, "the task ran twice")
        check_books(store_redis, poll_id, {"success": 1})
        check_keys_held(proj, {name: 2})
