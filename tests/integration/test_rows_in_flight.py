"""Polls beside a worker: rows that are in flight, wait for a retry, or end while they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.clock import MOST_LAG
from tests.support.console import Console
from tests.support.scripted_polls import numbers

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


def test_rows_in_retry_do_not_starve_those_behind_them(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Rows whose task waits for its next attempt keep key and room; all others get their turn; each is done once."""
    proj = project(
        """
import sqlite3

def database():
    return sqlite3.connect("rows.sqlite", timeout=30, isolation_level=None)

def due(poll):
    with database() as rows:
        found = rows.execute("SELECT id FROM row WHERE NOT done ORDER BY id LIMIT ?", (poll.limit,)).fetchall()
    return [Item((number,), key=number) for number, in found]

@app.task(bind=True, base=PerpetualTask, poll_every=0.3, next_batch=due, max_in_flight=4, max_retries=None)
def deliver(self, number):
    if number <= 3 and not os.path.exists("reachable"):
        raise self.retry(countdown=0.5)
    with database() as rows:
        rows.execute("UPDATE row SET done = 1 WHERE id = ?", (number,))
    ledger.record(number, "delivered")

def fill():
    with database() as rows:
        rows.execute("PRAGMA journal_mode=WAL")
        rows.execute("CREATE TABLE row (id INTEGER PRIMARY KEY, done INTEGER DEFAULT 0)")
        rows.executemany("INSERT INTO row (id) VALUES (?)", [(number,) for number in range(1, 13)])

@app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: ledger.record("hourly", "polled") or [(1,), (2,)])
def hourly(number):
    ledger.record("hourly", f"ran {number}")

@app.task(base=PerpetualTask, poll_every=0.3, next_batch=lambda: [Item((), key="once")],
          perpetual_options=PerpetualOptions(dedup_window=2))
def windowed():
    ledger.record("windowed", "ran")
"""
    )
    proj.run_python("import proj; proj.fill()")
    worker = proj.worker(pool="threads", concurrency=4).ready()
    proj.beat().ready()
    in_flight: list[int] = []

    def delivered() -> set[int]:
        in_flight.append(int(store_redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") or 0))
        return {int(row.id) for row in proj.rows("delivered")}

    wait_until(lambda: delivered() == set(range(4, 13)), "all rows behind those in retry are delivered")
    assert set(store_redis.hkeys("perpetual:keys:perpetual:proj.deliver")) == {"1", "2", "3"}
    proj.write("reachable", "")
    wait_until(lambda: delivered() == set(range(1, 13)), "every row is delivered")

    assert len(proj.rows("delivered")) == 12
    assert max(in_flight) == 4
    wait_until(lambda: not store_redis.hkeys("perpetual:keys:perpetual:proj.deliver"), "every key is free")
    assert sorted(row.what for row in proj.rows() if row.id == "hourly") == ["polled", "ran 1", "ran 2"]
    wait_until(lambda: len(proj.rows()) and sum(r.id == "windowed" for r in proj.rows()) >= 2, "the window has passed")
    one, two = [row for row in proj.rows() if row.id == "windowed"][:2]
    assert 2 <= two.time - one.time < 2 + 0.3 + MOST_LAG
    assert worker.alive


def test_a_row_whose_task_ends_while_a_poll_reads_is_not_enqueued_again(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A key that was in flight when the poll began may have been read before its end, so it is a duplicate."""
    proj = project(
        """
def due(poll):
    found = [] if os.path.exists("done") else [Item((1,), key=1)]
    ledger.record(1, "read")
    while len(ledger.rows()) > 1 and not os.path.exists("return"):
        time.sleep(0.02)
    return found

@app.task(base=PerpetualTask, poll_every=3600, next_batch=due)
def deliver(number):
    ledger.record(number, "begun")
    while not os.path.exists("done"):
        time.sleep(0.02)
    ledger.record(number, "delivered")
"""
    )
    proj.worker(pool="threads", concurrency=2).ready()
    with Console(proj) as console:
        assert console("perpetual.poll('proj.deliver')")["status"] == "enqueued"
        wait_until(lambda: proj.rows("begun"), "the task runs")
        console.send("perpetual.poll('proj.deliver')")
        wait_until(lambda: len(proj.rows("read")) == 2, "the row is read")
        proj.write("done", "")
        unit = "perpetual:u:perpetual:proj.deliver"
        wait_until(lambda: store_redis.hget(unit, "inflight") == "0", "the task has ended")
        proj.write("return", "")
        outcome = console.answer()
    assert numbers(outcome) == ("empty", 0, 1, 0)
    assert store_redis.llen("celery") == 0
    assert len(proj.rows("delivered")) == 1
