"""RedBeat, driven by :mod:`peers`: entries that run hourly, ticks with none and with some of them due.

Its lock is switched off, which costs it one more call per tick.
"""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta
from statistics import median

from celery import Celery
from peers import serve
from redbeat import RedBeatSchedulerEntry
from redbeat.schedulers import RedBeatScheduler, get_redis

app = Celery("peer", broker=sys.argv[1])
app.conf.update(redbeat_redis_url=sys.argv[1], redbeat_lock_key=None, result_expires=None, timezone="UTC")
SCHEDULER = RedBeatScheduler(app, lazy=True)
SCHEDULER.setup_schedule()


@app.task(name="peer.nothing", ignore_result=True)
def nothing() -> None:
    """The task that the entries send."""


def entry(n: int) -> RedBeatSchedulerEntry:
    return RedBeatSchedulerEntry(f"peer.nothing-{n}", "peer.nothing", timedelta(hours=1), app=app)


def fill(count: int) -> float:
    """Make entries; bytes that each takes in Redis."""
    client = get_redis(app)
    before = client.info("memory")["used_memory"]
    for n in range(count):
        entry(n).save()
    return (client.info("memory")["used_memory"] - before) / count


def idle(turns: int) -> float:
    """Seconds of a tick with nothing due."""
    times = []
    for _ in range(turns):
        begun = time.perf_counter()
        SCHEDULER.tick()
        times.append(time.perf_counter() - begun)
    return median(times)


def make_due(first: int, count: int) -> None:
    """These ran an hour ago."""
    for n in range(first, first + count):
        due = entry(n)
        due.reschedule(due.last_run_at - timedelta(seconds=3601))


def due() -> float:
    """Seconds of a tick."""
    begun = time.perf_counter()
    SCHEDULER.tick()
    return time.perf_counter() - begun


def rss() -> int:
    """Bytes of this process."""
    with open("/proc/self/statm") as file:  # noqa: PTH123
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    serve({"fill": fill, "idle": idle, "make_due": make_due, "due": due, "rss": rss})
