"""A beat that leads and polls, and a worker that receives, runs and retries, die before each of their writes to Redis."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support.broker import queued
from tests.support.killer import Killer, Nursery, Snapshot
from tests.support.leased_tasks import final_ends

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support import Project

#: Most writes before which one test kills: a process that works on has no last one.
MOST = 40

BEAT = """
import threading

def numbers(poll):
    start = poll.cursor or 0
    if start < 600:
        return Batch([Item((n,), key=n) for n in range(start, start + 300)], cursor=start + 300)

@app.task(base=PerpetualTask, poll_every=0.2, next_batch=numbers, preflight=lambda: None, poll_timeout=5,
          perpetual_options=PerpetualOptions(source_key="one", min_interval=0.05))
def visit(number): ...

def lead():
    scheduler = PerpetualScheduler(app, schedule_filename=f"schedule {os.getpid()}")
    broker = perpetual.store.redis
    until = time.monotonic() + 30
    while broker.llen("celery") < 600 and time.monotonic() < until:
        scheduler.tick()
        time.sleep(0.02)
"""

WORKER = """
import fcntl, threading

@app.task(base=PerpetualTask, poll_every=3600, bind=True, max_retries=1,
          next_batch=lambda: [Item((n,), key=n) for n in range(2)])
def visit(self, number):
    with open(f"runs {number}", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where another body has it
        if number == 1 and not self.request.retries:
            raise self.retry(countdown=0)

def have_ended():
    return perpetual.store.redis.hget("perpetual:u:perpetual:proj.visit", "inflight") == b"0"

def work(*, with_passes=False):
    def watch():
        while not have_ended():
            if with_passes:
                perpetual.cycle()
            time.sleep(0.05)
        os._exit(0)
    threading.Thread(target=watch, daemon=True).start()
    app.worker_main(["worker", "-P", "solo", "-l", "WARNING", "--without-gossip", "--without-mingle"])
"""


@pytest.fixture
def killer(redis_url: str) -> Iterator[Killer]:
    """Stands before the server."""
    with Killer(redis_url) as killer:
        yield killer


@pytest.mark.long
def test_a_beat_that_leads_and_polls(project: Callable[..., Project], killer: Killer, store_redis: redis.Redis) -> None:
    """Election, preflight, permit, claim, commit: the next beat goes on there, and each item is enqueued once."""
    proj = project(BEAT, store=killer.url, perpetual_leader_ttl=3)
    with Nursery(proj, killer) as nursery:

        def check(was_killed: bool) -> None:
            store_redis.delete("perpetual:leader")  # its time is over
            nursery.run("lead()")
            messages = queued(store_redis)
            assert sorted(message.args[0] for message in messages) == list(range(600))
            assert store_redis.hget("perpetual:u:perpetual:proj.visit", "cursor") == "600"
            assert store_redis.hget("perpetual:u:perpetual:proj.visit", "inflight") == "600"
            assert store_redis.hlen("perpetual:keys:perpetual:proj.visit") == 600
            assert not store_redis.exists("perpetual:outbox")

        nursery.kill_before_each_write("lead()", store_redis.flushdb, check, most=MOST)


@pytest.mark.long
def test_a_worker_that_receives_runs_and_retries(
    project: Callable[..., Project], killer: Killer, store_redis: redis.Redis, raw_redis: redis.Redis
) -> None:
    """Both items end once, whatever it was at, and no two bodies of an id run at once."""
    proj = project(WORKER, store=killer.url, perpetual_lease_ttl=1.5, perpetual_heartbeat_interval=0.5)
    with Nursery(proj, killer) as nursery:
        nursery.run("perpetual.poll('proj.visit')")
        committed = Snapshot(raw_redis)

        def check(was_killed: bool) -> None:
            store_redis.delete("perpetual:cycle")
            if was_killed:
                nursery.run("work(with_passes=True)")
            assert Counter(status for _, status in final_ends(proj)) == {"success": 2}
            assert set(final_ends(proj).values()) == {1}
            assert store_redis.hget("perpetual:u:perpetual:proj.visit", "inflight") == "0"
            assert not store_redis.exists(
                "perpetual:leases", "perpetual:states", "perpetual:resend", "perpetual:copies"
            )

        nursery.kill_before_each_write("work()", committed.restore, check, most=MOST)
