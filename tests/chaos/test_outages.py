"""The store goes away and comes back: beat and workers keep running, and the books are right afterwards."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import END_DELAYED, LEADER_ELECTED, STORE_UNREACHABLE
from tests.support import wait_until
from tests.support.stream_events import poll_events, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project

# Rows are due until a task has done them, as in an outbox; a task begins, waits for its sign, and marks its row.
OUTBOX = """
import sqlite3

def database():
    return sqlite3.connect("rows.sqlite", timeout=30, isolation_level=None)

with database() as rows:
    rows.execute("PRAGMA journal_mode=WAL")
    rows.execute("CREATE TABLE IF NOT EXISTS row (id INTEGER PRIMARY KEY, done INTEGER DEFAULT 0)")

def due(poll):
    with database() as rows:
        found = rows.execute("SELECT id FROM row WHERE NOT done LIMIT ?", (poll.limit,)).fetchall()
    return [Item((number,), key=number) for number, in found]

@app.task(bind=True, base=PerpetualTask, poll_every=0.5, next_batch=due)
def work(self, number):
    ledger.record(number, "begun")
    while number <= 4 and not os.path.exists("released"):
        time.sleep(0.05)
    with database() as rows:
        rows.execute("UPDATE row SET done = 1 WHERE id = ?", (number,))
    ledger.record(number, "done")

def add(first, last):
    with database() as rows:
        rows.executemany("INSERT INTO row (id) VALUES (?)", [(n,) for n in range(first, last + 1)])
"""


def done(proj: Project) -> set[int]:
    """Rows that a task has done."""
    return {int(row.id) for row in proj.rows("done")}


def in_flight(proj: Project) -> int:
    """Return how many items count in the unit's room."""
    return int(proj.redis.hget("perpetual:u:perpetual:proj.work", "inflight") or 0)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_restart_of_the_store_under_running_tasks(
    project: Callable[..., Project], redis_url: str, private_redis: Callable[..., EmbeddedServer], pool: str
) -> None:
    """The ends of tasks while the store is away, the broker not, are stored afterwards; polling goes on by itself."""
    server = private_redis(appendonly=True)
    proj = project(OUTBOX, broker=redis_url, store=server.url)
    proj.run_python("import proj; proj.add(1, 4)")
    beat, worker = proj.beat().ready(), proj.worker(pool=pool, concurrency=4).ready()
    wait_until(lambda: len(proj.rows("begun")) == 4, "four tasks run")

    server.stop()
    beat.wait_for_event(STORE_UNREACHABLE)
    proj.write("released", "")
    wait_until(lambda: done(proj) == {1, 2, 3, 4}, "the tasks end without the store")
    worker.wait_for_event(END_DELAYED)
    server.start()

    wait_until(lambda: in_flight(proj) == 0, "every end is stored")
    (poll_id,) = [poll.data["poll_id"] for poll in poll_events(proj.redis) if poll.status == "enqueued"]
    batch = proj.redis.hgetall(f"perpetual:p:{poll_id}")
    assert (batch["n"], batch["left"], batch["success"]) == ("4", "0", "4")
    assert proj.redis.keys("perpetual:keys:*") + proj.redis.keys("perpetual:i:*") == []
    proj.run_python("import proj; proj.add(5, 12)")
    wait_until(lambda: done(proj) == set(range(1, 13)), "new rows are found and done")
    wait_until(lambda: in_flight(proj) == 0, "their ends are stored too")
    assert beat.alive
    assert worker.alive
    assert sorted(int(row.id) for row in proj.rows("done")) == list(range(1, 13))


def test_an_end_is_settled_though_its_process_ended(
    project: Callable[..., Project], redis_url: str, private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A pool child that is replaced while the store is away takes no end with it."""
    server = private_redis(appendonly=True)
    proj = project(OUTBOX, broker=redis_url, store=server.url, worker_max_tasks_per_child=1)
    proj.run_python("import proj; proj.add(1, 2)")
    beat, worker = proj.beat().ready(), proj.worker(concurrency=2).ready()
    wait_until(lambda: len(proj.rows("begun")) == 2, "two tasks run")

    server.stop()
    proj.write("released", "")
    wait_until(lambda: done(proj) == {1, 2}, "the tasks end without the store")
    # Each of the children, which have run all that they may and would go, has tried more than once.
    worker.wait_for_event(END_DELAYED, count=6)
    server.start()

    wait_until(lambda: in_flight(proj) == 0, "every end is stored", timeout=10)
    assert beat.alive


def test_a_restart_of_the_only_redis(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Store and broker at once, while the worker has nothing to do: beat and worker go on by themselves."""
    server = private_redis(appendonly=True)
    proj = project(OUTBOX, store=server.url)
    proj.write("released", "")
    proj.run_python("import proj; proj.add(1, 6)")
    beat, worker = proj.beat().ready(), proj.worker().ready()
    wait_until(lambda: done(proj) == set(range(1, 7)) and in_flight(proj) == 0, "the first rows are done")
    wait_until(lambda: proj.redis.hlen("unacked") == 0, "the worker has acknowledged everything")
    polls = len(poll_events(proj.redis))

    server.stop()
    beat.wait_for_event(STORE_UNREACHABLE)
    server.start()

    wait_until(lambda: len(poll_events(proj.redis)) > polls, "polls go on")
    proj.run_python("import proj; proj.add(7, 12)")
    wait_until(lambda: done(proj) == set(range(1, 13)) and in_flight(proj) == 0, "new rows are found and done")
    assert beat.alive
    assert worker.alive
    assert sorted(int(row.id) for row in proj.rows("done")) == list(range(1, 13))


def test_a_restart_of_the_only_redis_under_running_tasks(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """The worker survives the loss of a broker that has unacknowledged messages of it, and stores the ends of its tasks."""
    server = private_redis(appendonly=True)
    proj = project(OUTBOX, store=server.url)
    proj.run_python("import proj; proj.add(1, 1)")
    beat, worker = proj.beat().ready(), proj.worker(concurrency=1).ready()
    wait_until(lambda: len(proj.rows("begun")) == 1, "a task runs")

    server.stop()
    beat.wait_for_event(STORE_UNREACHABLE)
    proj.write("released", "")
    wait_until(lambda: done(proj) == {1}, "the task ends without the store")
    server.start()

    wait_until(lambda: in_flight(proj) == 0, "its end is stored", timeout=15)
    proj.run_python("import proj; proj.add(2, 4)")
    wait_until(lambda: done(proj) == {1, 2, 3, 4}, "new rows are found and done")
    assert beat.alive
    assert worker.alive


def test_beat_without_a_store_at_start_says_what_to_do(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """It waits for perpetual_store_wait and ends with an error that names the server, but not its password."""
    server = private_redis()
    server.stop()
    url = f"redis://:hunter2@127.0.0.1:{server.port}/3"
    proj = project(OUTBOX, broker=url, perpetual_store_url=url, perpetual_store_wait=2)

    begun = time.monotonic()
    beat = proj.beat()
    code = beat.wait(30)
    took = time.monotonic() - begun

    assert code == 1
    assert 2 < took < 8
    assert "hunter2" not in beat.log()
    (line,) = [line for line in beat.log().splitlines() if "beat does not start" in line]
    assert f"127.0.0.1:{server.port}/3 did not answer" in line
    assert "gave up after 2 s" in line
    assert "perpetual_store_url" in line


def test_beat_with_a_silent_store_at_start_gives_up_in_time(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A server that takes connections and never answers costs perpetual_store_wait and a call or two, not minutes."""
    server = private_redis()
    proj = project(OUTBOX, store=server.url, perpetual_store_wait=2, perpetual_store_timeout=1)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        beat = proj.beat()
        code = beat.wait(60)
        took = time.monotonic() - begun
    finally:
        os.kill(server.pid, signal.SIGCONT)

    assert code == 1
    # Two seconds of waiting, the calls for the banner and the one in progress, and the start of the process.
    assert took < 10
    assert "gave up after 2 s" in beat.log()


def test_beat_and_worker_survive_a_frozen_store(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """For longer than the lead lasts nothing answers: beat survives, leads again and polls, and the worker works."""
    server = private_redis()
    proj = project(OUTBOX, store=server.url, perpetual_leader_ttl=3, perpetual_store_timeout=1)
    beat, worker = proj.beat().ready(), proj.worker(concurrency=2).ready()
    wait_until(lambda: statuses(proj.redis, "proj.work"), "the first poll")
    proj.write("released", "")

    os.kill(server.pid, signal.SIGSTOP)
    try:
        # Longer than leader_ttl, so that the lead is over when the store wakes up.
        time.sleep(5)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    proj.run_python("import proj; proj.add(1, 6)")

    wait_until(lambda: done(proj) == set(range(1, 7)), "rows are found and done")
    wait_until(lambda: in_flight(proj) == 0, "their ends are stored")
    assert beat.alive
    assert worker.alive
    assert len(beat.events(LEADER_ELECTED)) == 2
    assert beat.terminate()[0] == 0
    assert proj.redis.get("perpetual:leader") is None
