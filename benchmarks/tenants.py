"""A real beat with many tenants: how late their polls are, and what they cost; and how soon a unit is refilled."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from array import array
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from celery import Celery
from measuring import HERE, Row, executed, percentile
from servers import bench_server

from celery_perpetual import Perpetual
from celery_perpetual.completions.end import TaskEnd

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The longest time over which first polls are spread, seconds.
SPREAD = 10
REFILL = "fleet.refill"


@dataclass(frozen=True)
class Beat:
    """A beat, its store, and where it writes what its polls have seen."""

    process: subprocess.Popen[bytes]
    perpetual: Perpetual
    file: Path

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        times = psutil.Process(self.process.pid).cpu_times()
        return float(times.user + times.system)

    def polls(self) -> list[tuple[float, float]]:
        """(time, how late) of each poll, once it has ended."""
        self.process.terminate()
        assert self.process.wait(60) == 0
        found = array("d", self.file.read_bytes())
        return list(zip(found[::2], found[1::2], strict=True))


@contextmanager
def beat(*, tenants: int, every: float) -> Iterator[Beat]:
    """Start it on a server of its own."""
    with bench_server() as server, tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "seen")
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "BENCH_BROKER": server.url, "BENCH_FILE": str(file)}
        env |= {"BENCH_TENANTS": str(tenants), "BENCH_EVERY": str(every)}
        argv = [sys.executable, "-m", "celery", "-A", "fleet", "beat", "-l", "WARNING", "--pidfile="]
        perpetual = Perpetual(Celery("fleet", broker=server.url, set_as_current=False))
        with Path(folder, "beat.log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Beat(process, perpetual, file)
            # Its banner goes there too.
            assert "/MainProcess]" not in (text := Path(folder, "beat.log").read_text()), text
        finally:
            process.kill()
            process.wait()
            perpetual.store.close()


def lateness(tenants: int, every: float, rounds: int) -> list[Row]:
    """So many intervals of a beat with so many units, from when all of them have been polled once."""
    with beat(tenants=tenants, every=every) as one:
        store: Any = one.perpetual.store
        due, begun = store.keys.due, time.time()
        _wait(lambda: store.redis.zcard(due) == tenants, 60 + tenants / 500)
        known = time.time() - begun
        time.sleep(SPREAD + 2)
        # Many units need longer for their first polls.
        _wait(lambda: store.redis.zcount(due, "-inf", store.now()) == 0, 120)
        since, cpu = time.time(), one.cpu()
        time.sleep(every * rounds)
        until, cpu = time.time(), one.cpu() - cpu
        _wait(lambda: store.redis.zcount(due, "-inf", store.now()) == 0, 120)
        polls = one.polls()
    late = [late for at, late in polls if since <= at - late < until]
    expected = tenants * rounds
    what = f"{tenants} units every {every:g} s"
    assert abs(len(late) - expected) <= expected / 50 + 5, (len(late), expected)
    return [
        Row("tenants", f"{what}, known after", known, "s"),
        Row("tenants", f"{what}, lateness p50", percentile(late, 0.5), "s"),
        Row("tenants", f"{what}, lateness p99", percentile(late, 0.99), "s", 1, False),
        Row("tenants", f"{what}, polls / slots", len(late) / expected, "x"),
        Row("tenants", f"{what}, CPU of beat per poll", 1e6 * cpu / len(late), "us"),
        Row("tenants", f"{what}, share of one core", cpu / (until - since), "x"),
    ]


def idle_cost(tenants: int, every: float, rounds: int) -> list[Row]:
    """Commands of the store and CPU of a beat whose units have nothing to do, the beat's own upkeep included."""
    with beat(tenants=tenants, every=every) as one:
        store: Any = one.perpetual.store
        _wait(lambda: store.redis.zcard(store.keys.due) == tenants, 60)
        time.sleep(every)  # in which the first polls take place
        store.redis.config_resetstat()
        since, cpu = time.time(), one.cpu()
        time.sleep(every * rounds)
        until, cpu, done = time.time(), one.cpu() - cpu, executed(store.redis)
        polls = [at for at, _ in one.polls() if since <= at < until]
    assert abs(len(polls) - tenants * rounds) <= tenants / 20 + 5, len(polls)
    # A script counts by the commands that it runs.
    commands = sum(calls for name, calls in done.items() if not name.startswith(("eval", "config", "info")))
    what = f"{tenants} idle units every {every:g} s"
    return [
        Row("idle cost", f"{what}, commands per poll", commands / len(polls), "", 5, False, {"commands": done}),
        Row("idle cost", f"{what}, share of one core of beat", cpu / (until - since), "x", 0.02, False),
    ]


def refilling(times: int) -> list[Row]:
    """From the end that leaves fewer than ``low_water`` items until the next batch is in the broker."""
    taken = []
    with beat(tenants=0, every=3600) as one:
        perpetual, redis = one.perpetual, one.perpetual.store.redis
        _wait(lambda: redis.llen("celery") == 20, 30)
        for _ in range(times):
            ids = [_task_id(message) for message in redis.lrange("celery", 0, -1)]
            redis.delete("celery")
            time.sleep(0.13)  # so that the end falls anywhere between two turns of the clock
            for task_id in ids[: len(ids) - 9]:
                begun = time.perf_counter()
                perpetual.announcer.announce(TaskEnd(task_id=task_id, task=REFILL, status="success"))
            while redis.llen("celery") == 0:
                assert time.perf_counter() < begun + 10
                time.sleep(0.001)
            taken.append(time.perf_counter() - begun)
            for task_id in ids[len(ids) - 9 :]:
                perpetual.announcer.announce(TaskEnd(task_id=task_id, task=REFILL, status="success"))
        one.polls()
    return [
        Row("refill", f"end of a task to the next batch, p50 of {times}", percentile(taken, 0.5), "s"),
        Row("refill", f"end of a task to the next batch, p99 of {times}", percentile(taken, 0.99), "s", 0.1, False),
    ]


def _task_id(message: Any) -> str:
    import json

    found: str = json.loads(message)["headers"]["id"]
    return found


def _wait(is_so: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
