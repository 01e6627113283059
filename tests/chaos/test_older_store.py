"""The store comes back with an older state of its own data."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Perpetual
from celery_perpetual.events import LEADER_STANDBY, LEASES_REGAINED, STORE_LOST
from celery_perpetual.store.commands.leases import LeaseText
from tests.support import wait_until
from tests.support.console import Console
from tests.support.leased_tasks import SETTINGS, TASKS, all_well, final_ends, tokens
from tests.support.older import copy_files, put_back
from tests.support.stream_events import events, leader

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import redis
    from celery import Celery

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_what_runs_under_a_forgotten_lease_ends_once(
    project: Callable[..., Project],
    redis_url: str,
    store_redis: redis.Redis,
    private_redis: Callable[..., EmbeddedServer],
    tmp_path: Path,
    pool: str,
) -> None:
    """The store forgets that an item was begun: its end counts all the same, and it does not run again.

    Its worker enters the lease anew, under a greater token, so a message that is back in the queue is adopted.
    """
    server = private_redis(appendonly=True)
    source = TASKS.replace("ITEMS", "2")
    # The worker takes no more than it runs.
    proj = project(source, broker=redis_url, store=server.url, worker_prefetch_multiplier=1, **SETTINGS)
    proj.beat()
    wait_until(lambda: proj.redis.hget("perpetual:u:perpetual:proj.deliver", "inflight") == "2", "two items wait")
    wait_until(lambda: not proj.redis.exists("perpetual:outbox"), "and are in their queue")
    copy_files(server, tmp_path / "copy")
    worker = proj.worker(pool=pool, concurrency=2).ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "both run")
    given = max(max(several) for several in tokens(proj, "begin").values())
    messages = [json.loads(text)[0] for text in store_redis.hvals("unacked")]

    put_back(server, tmp_path / "copy")
    assert worker.wait_for_event(LEASES_REGAINED) == {"running": 2, "regained": 2}
    held = [LeaseText.read(lease.encode()) for lease in proj.redis.hvals("perpetual:leases")]
    assert all(lease.token > given for lease in held)
    for message in messages:
        store_redis.lpush("celery", json.dumps(message))
    other = proj.worker(pool=pool, concurrency=2).ready()
    wait_until(lambda: int(proj.redis.hget("perpetual:counters", "dropped_adopted") or 0) >= 2, "they are adopted")
    proj.write("released", "")

    all_well(proj, 2)
    assert other.alive
    assert sum(map(len, tokens(proj, "begin").values())) == 2
    assert set(final_ends(proj).values()) == {1}
    assert worker.alive


# A source with growing ids, up to the number that stands in a file; there is no cursor before the first id.
SOURCE = """
def feed(poll):
    while os.path.exists("hold"):
        time.sleep(0.01)
    with open("most") as file:
        most = int(file.read())
    first = poll.cursor or 0
    if first == most:
        return None
    for number in range(first, most):
        ledger.record(number, "read")
    return Batch([], cursor=most)

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=feed)
def follow(number): ...

def tick(poll):
    ledger.record(poll.poll_id, "ticked")

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=tick)
def plain(): ...
"""
UNIT = "perpetual:proj.follow"


def ids(proj: Project) -> list[int]:
    return [int(row.id) for row in proj.rows("read")]


@pytest.mark.parametrize("beats", [1, 2])
@pytest.mark.parametrize("known", [0, 6])
def test_no_source_is_read_from_an_old_cursor(
    project: Callable[..., Project],
    redis_url: str,
    private_redis: Callable[..., EmbeddedServer],
    tmp_path: Path,
    known: int,
    beats: int,
) -> None:
    """The older state knows the same leader, and an older cursor or none: the unit waits for the operator, once."""
    server = private_redis(appendonly=True)
    # So long a lead that the same beat still leads in the older state, and need not renew for seconds.
    proj = project(SOURCE, broker=redis_url, store=server.url, perpetual_leader_ttl=60, perpetual_cycle_interval=0.2)
    proj.write("most", str(known))
    running = [proj.beat()]
    wait_until(lambda: leader(proj.redis), "a beat leads")
    if beats == 2:
        running.append(proj.beat())
        running[1].wait_for_event(LEADER_STANDBY)
    wait_until(lambda: len(ids(proj)) == known and proj.rows("ticked"), "the source is read as far as it goes")
    wait_until(lambda: (proj.redis.hget(f"perpetual:u:{UNIT}", "cursor") or "0") == str(known), "its cursor is stored")
    if not known:
        # A poll is open in the older state.
        proj.write("hold", "")
        wait_until(lambda: proj.redis.hexists(f"perpetual:u:{UNIT}", "claim"), "the unit is polled")
    copy_files(server, tmp_path / "copy")
    marks = proj.redis.zrange("perpetual:marks", 0, -1, withscores=True)
    proj.write("most", "10")
    (proj.folder / "hold").unlink(missing_ok=True)
    wait_until(lambda: ids(proj) == list(range(10)), "ten ids are read")
    wait_until(lambda: proj.redis.hget(f"perpetual:u:{UNIT}", "cursor") == "10", "the cursor has moved")
    assert len(marks) == beats
    seen = proj.redis.info("commandstats")["cmdstat_smembers"]["calls"]
    wait_until(
        lambda: proj.redis.info("commandstats")["cmdstat_smembers"]["calls"] >= seen + 8,
        "every beat has seen which units have a cursor",
    )

    put_back(server, tmp_path / "copy")
    for beat in running:
        beat.wait_for_event(STORE_LOST)
    ticks = len(proj.rows("ticked"))
    wait_until(lambda: len(proj.rows("ticked")) > ticks + 3, "the task without a cursor is polled on")
    assert list(proj.redis.hgetall("perpetual:paused")) == [UNIT]
    assert ids(proj) == list(range(10))
    lost = events(proj.redis, "store.lost")
    assert {unit for event in lost for unit in event["paused"]} == {UNIT}
    assert len({event["epoch"] for event in lost}) == 1
    assert all(event["was"] != event["epoch"] for event in lost)

    proj.write("most", "15")
    with Console(proj) as console:
        console("perpetual.set_cursor('proj.follow', 10)")
        assert console("perpetual.resume('proj.follow')") is True
    wait_until(lambda: ids(proj) == list(range(15)), "it continues from the cursor that was set")
    assert [len(beat.events(STORE_LOST)) for beat in running] == [1] * beats
    assert not proj.redis.exists("perpetual:paused")


WORK = """
@app.task
def work(name):
    ledger.record(name, str(perpetual.slot()))
"""


def test_no_slot_of_a_routine_runs_again_by_itself(
    project: Callable[..., Project],
    redis_url: str,
    private_redis: Callable[..., EmbeddedServer],
    make_app: Callable[..., Celery],
    tmp_path: Path,
) -> None:
    """In the older state a slot is due that has run: all routines wait for the operator, who leaves it out.

    In a lost store there is nothing that could run again, and what is created from then on runs.
    """
    server = private_redis(appendonly=True)
    # So long a lead that its mark is that of before the slot, but for the start of the run.
    proj = project(WORK, broker=redis_url, store=server.url, perpetual_leader_ttl=60, perpetual_cycle_interval=0.2)
    perpetual = Perpetual(make_app("proj", perpetual_store_url=server.url))
    proj.worker(pool="solo").ready()
    beat = proj.beat()
    wait_until(lambda: leader(proj.redis), "a beat leads")
    beat.stop_signal()
    routines, start = perpetual.routines, datetime.now(timezone.utc).replace(microsecond=0)
    routines.create("proj.work", ["daily"], every=timedelta(days=1), start_at=start, id="daily")
    routines.create("proj.work", ["hourly"], every=3600, start_at=start, id="hourly", paused=True)
    copy_files(server, tmp_path / "copy")
    beat.cont()
    wait_until(lambda: routines.get("daily").run_count == 1, "its slot has run")

    put_back(server, tmp_path / "copy")
    beat.wait_for_event(STORE_LOST)
    wait_until(lambda: proj.redis.exists("perpetual:paused"), "it has paused")
    assert list(proj.redis.hgetall("perpetual:paused")) == ["routine:*"]
    assert [each.id for each in routines.list_due()] == ["daily"]
    assert routines.run_due() == []
    (lost,) = wait_until(lambda: events(proj.redis, "store.lost"), "it has said so")
    assert lost["paused"] == ["routine:*"]
    passed = proj.redis.info("commandstats")["cmdstat_smembers"]["calls"]
    wait_until(
        lambda: proj.redis.info("commandstats")["cmdstat_smembers"]["calls"] >= passed + 8, "the beat leads again"
    )
    assert perpetual.resume(routine="*", from_="kept")
    assert routines.get("daily").next_run_at == start + timedelta(days=1)
    routines.create("proj.work", ["after it"], at=start)
    wait_until(lambda: [row.id for row in proj.rows()] == ["daily", "after it"], "others run")

    proj.redis.flushall()
    beat.wait_for_event(STORE_LOST, count=2)
    routines.create("proj.work", ["new"], at=start)
    wait_until(lambda: [row.id for row in proj.rows()] == ["daily", "after it", "new"], "what is created runs")
    assert not proj.redis.exists("perpetual:paused")
    perpetual.store.close()
