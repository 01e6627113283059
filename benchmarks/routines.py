"""Few routines and a million: creating, memory, asking for what is due, starting it, lateness; RedBeat beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from celery import Celery
from clock import RedBeat
from measuring import HERE, Row, executed, median, percentile
from peers import Peer
from servers import bench_server

from celery_perpetual import Perpetual
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.routine_source import RoutineSource
from celery_perpetual.routines.due import DueRuns
from celery_perpetual.store.wire import packed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from typing_extensions import Self

ROUNDS, TURNS = 9, 60
#: Most entries of RedBeat, which saves them one by one: a million would take longer than all the rest.
MOST_ENTRIES = 100_000
PER_SECOND = 500


def measure(*, sizes: tuple[int, int], due: int, seconds: int) -> list[Row]:
    """Rows for few and many routines; what is compared is taken in turns.

    Args:
        sizes: few and many.
        due: how many are due in a round.
        seconds: for how long a real beat runs 500 of them a second.
    """
    few, many = sizes
    with ExitStack() as stack:
        filled = {
            name: stack.enter_context(Filled(stack.enter_context(bench_server()).url))
            for name in ("few", "many", "other")
        }
        rows = []
        for size, each in zip(sizes, filled.values(), strict=False):
            rate, cpu, taken = each.fill(size)
            rows += [
                Row("create", f"create_many, {size} routines", rate, "/s", 10_000 if size == many else None),
                Row("create", f"the same, CPU of the caller, {size} routines", cpu * 1e6, "us/routine"),
                Row("memory", f"store, {size} routines, per routine", taken, "B"),
            ]
        redbeat = stack.enter_context(RedBeat()) if Peer.installed() else None
        if redbeat is not None:
            entries = min(many, MOST_ENTRIES)
            per_entry = redbeat.fill(entries)
            rows += [
                Row("memory", f"store, RedBeat, {entries} entries, per entry", per_entry, "B"),
                Row("memory", "store, per routine / per entry of RedBeat", rows[-1].seen / per_entry, "x", 0.6, False),
            ]
        filled["other"].fill(few)
        for each in filled.values():
            each.rest()
        for what, ask in (("list_due(limit=100)", Filled.list_due), ("idle turn", Filled.idle)):
            times = _in_turns(filled, ask)
            rows += [
                Row("asking", f"{what}, {many} routines", median(times["many"]) * 1e6, "us"),
                Row("asking", f"{what}, {many} routines / {few}", _ratio(times, "many", "few"), "x", 1.5, False),
                Row("control", f"{what}, {few} routines / {few} of another server", _ratio(times, "other", "few"), "x"),
            ]
        times = _in_turns(filled, Filled.no_question)
        rows.append(
            Row("control", f"a script that reads no routine, beside {many} / {few}", _ratio(times, "many", "few"), "x")
        )
        rows += _started(filled["many"], redbeat, due)
    return rows + _lateness(seconds)


def _in_turns(filled: dict[str, Filled], ask: Callable[[Filled], float]) -> dict[str, list[float]]:
    """Seconds of asking each server in turn, the median of each round: every one comes after another one."""
    times: dict[str, list[float]] = {name: [] for name in filled}
    for _ in range(ROUNDS):
        seen: dict[str, list[float]] = {name: [] for name in filled}
        for each in filled.values():
            each.redis.config_resetstat()
        for _ in range(TURNS):
            for name, each in filled.items():
                seen[name].append(ask(each))
        for name, each in filled.items():
            times[name].append(median(seen[name]))
            done = executed(each.redis)
            assert sum(done.get(command, 0) for command in ("evalsha", "eval", "hmget")) >= TURNS, done
            assert not {"hset", "lpush", "xadd"} & done.keys(), done
    return times


def _started(filled: Filled, redbeat: RedBeat | None, count: int) -> list[Row]:
    taken: dict[str, list[float]] = {"routines": [], "redbeat": []}
    for _ in range(3):
        taken["routines"].append(filled.start(count))
        if redbeat is not None:
            taken["redbeat"].append(redbeat.due(count))
    rows = [Row("due", f"{count} routines, a message each", median(taken["routines"]) * 1e6, "us/routine")]
    if redbeat is not None:
        rows += [
            Row("due", f"RedBeat, {count} entries, a message each", median(taken["redbeat"]) * 1e6, "us/entry"),
            Row("due", "RedBeat's entry / routine", _ratio(taken, "redbeat", "routines"), "x", 10),
        ]
    return rows


def _ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios within each round."""
    return median([a / b for a, b in zip(times[over], times[under], strict=True)])


class Filled:
    """An app with so many routines, and the part of a beat's clock that runs them, driven turn by turn."""

    def __init__(self, url: str) -> None:
        self.app = Celery("routines", broker=url, set_as_current=False)
        self.perpetual = Perpetual(self.app)

        def nothing(**_: int) -> None:
            return None

        self.app.task(name="routines.nothing", ignore_result=True, shared=False)(nothing)
        self.app.finalize()
        self.routines, self.store = self.perpetual.routines, self.perpetual.store
        self.redis: Any = self.store.redis
        self.due = DueRuns(self.app, self.store, self.perpetual.runner.publisher)
        self.leadership = Leadership(self.store, app_name="routines", ttl=15, health=LeadHealth())
        self.source = RoutineSource(self.due)
        self.clock = Clock(self.leadership, EntryRuns(self.store), [self.source])

    def __enter__(self) -> Self:
        self.leadership.start(before_resigning=lambda _: None, saw_epoch=lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.leadership.stop(5)
        self.store.close()

    def fill(self, count: int) -> tuple[float, float, float]:
        """Create routines of an hour and more; how many a second, and the seconds of CPU and the bytes of each."""
        self.list_due()  # opens the connection
        before = self.redis.info("memory")["used_memory"]
        begun, worked = time.perf_counter(), time.process_time()
        given = self._fields(count)
        while part := list(islice(given, 10_000)):
            made = self.routines.create_many(part)
            assert all(each.created for each in made)
        seconds, cpu = time.perf_counter() - begun, (time.process_time() - worked) / count
        assert self.redis.hlen(self.store.keys.routines) == count
        # Each has left an event; there are no more of these, however many routines there are.
        self.redis.xtrim(self.store.keys.events, maxlen=0, approximate=False)
        return count / seconds, cpu, (self.redis.info("memory")["used_memory"] - before) / count

    def _fields(self, count: int) -> Iterator[dict[str, Any]]:
        start = datetime.now(timezone.utc) + timedelta(days=1)
        for n in range(count):
            yield {
                "task": "routines.nothing", "kwargs": {"user": n}, "id": f"user-{n}", "every": timedelta(hours=6),
                "start_at": start + timedelta(seconds=n % 86_400),
            }  # fmt: skip

    def list_due(self) -> float:
        """Seconds of listing up to a hundred that would be due in two days."""
        at = datetime.now(timezone.utc) + timedelta(days=2)
        begun = time.perf_counter()
        self.routines.list_due(at, limit=100)
        return time.perf_counter() - begun

    def idle(self) -> float:
        """Seconds of a turn with nothing due, which asks the store."""
        self.source._ask_at = 0.0  # noqa: SLF001  # it would pause
        begun = time.perf_counter()
        self.clock.turn()
        return time.perf_counter() - begun

    def no_question(self) -> float:
        """Seconds of a script that makes as many calls as an idle turn and reads nothing."""
        call = packed("EVAL", "for n = 1, 16 do redis.call('TYPE', KEYS[1]) end", 1, "nothing")
        begun = time.perf_counter()
        self.store.wire.call(call)
        return time.perf_counter() - begun

    def rest(self) -> None:
        """Wait until the server does nothing beside what it is asked: no rewrite of its log goes on, or begins."""
        self.redis.config_set("auto-aof-rewrite-percentage", 0)
        _wait(lambda: not self.redis.info("persistence")["aof_rewrite_in_progress"], 120)

    def start(self, count: int) -> float:
        """Seconds per routine that becomes due and is started, until all messages are in the broker."""
        keys, before = self.store.keys, self.redis.llen("celery")
        ids = [row for row, _ in self.redis.zrange(keys.routines_due, 0, count - 1, withscores=True)]
        at = datetime.now(timezone.utc)
        for each in ids:
            self.routines.update(each.decode(), next_run_at=at)
        self.redis.config_resetstat()
        begun = time.perf_counter()
        while (found := self.due.read()) and found.records:
            self.due.start(found)
        seconds = time.perf_counter() - begun
        assert self.redis.llen("celery") - before == count
        return seconds / count


def _lateness(seconds: int) -> list[Row]:
    """How late a real beat starts 500 routines a second, by the events that the store writes."""
    count = PER_SECOND * seconds
    with bench_server() as server, tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": paths, "BENCH_BROKER": server.url, "BENCH_STORE": server.url}
        env |= {"BENCH_ITEMS": "0", "BENCH_ROUNDS": "0"}
        argv = [sys.executable, "-m", "celery", "-A", "project", "beat", "-l", "WARNING", "--pidfile="]
        app = Celery("bench", broker=server.url, set_as_current=False)
        perpetual = Perpetual(app)
        client: Any = perpetual.store.redis
        with Path(folder, "beat.log").open("wb") as log:
            process = subprocess.Popen(argv, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait(lambda: client.exists(perpetual.store.keys.leader), 30)
            start = datetime.now(timezone.utc) + timedelta(seconds=5 + count / 5_000)
            perpetual.routines.create_many(
                {
                    "task": "bench.plain", "kwargs": {"name": "late", "n": n},
                    "at": start + timedelta(seconds=n / PER_SECOND),
                }
                for n in range(count)
            )  # fmt: skip
            assert datetime.now(timezone.utc) < start, "they were due before they were there"
            _wait(lambda: client.llen("celery") == count, 60 + 2 * seconds)
            late = [
                (_time(data["at"]) - _time(data["slot"])).total_seconds()
                for _, fields in client.xrange(perpetual.store.keys.events)
                if fields[b"event"] == b"routine.started" and (data := json.loads(fields[b"data"]))
            ]
        finally:
            process.terminate()
            process.wait(30)
            perpetual.store.close()
    assert len(late) == count
    return [
        Row("late", f"{PER_SECOND} due per second, p50", percentile(late, 0.5), "s"),
        Row("late", f"{PER_SECOND} due per second, p99", percentile(late, 0.99), "s", 1, False),
    ]


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _wait(is_so: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)
