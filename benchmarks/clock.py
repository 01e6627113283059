"""The clock with few and many units: first turn, idle turns, turns with something due, memory."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import Celery
from measuring import Row, executed, median

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.beat.base_runs import BaseRuns
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.embedded import EmbeddedServer
from celery_perpetual.polling import PollThreads, Runner
from celery_perpetual.tasks import discover

if TYPE_CHECKING:
    from typing_extensions import Self

IDLE_ROUNDS, IDLE_TURNS = 7, 60
FAR = 3_600_000


def measure(*, sizes: tuple[int, ...]) -> list[Row]:
    """Rows for each number of units; idle turns are taken in turns."""
    rows: list[Row] = []
    with ExitStack() as stack:
        clocks = {size: stack.enter_context(Ticking(stack.enter_context(EmbeddedServer()).url, size)) for size in sizes}
        for size, ticking in clocks.items():
            rows.append(Row("start", f"first turn, {size} units", ticking.first(), "s", 0.1, False))
            rows.append(Row("memory", f"store, {size} units", ticking.bytes_per_unit(), "B/unit"))
        idle: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(IDLE_ROUNDS):
            for size, ticking in clocks.items():
                idle[size].append(ticking.idle())
        rows += [Row("tick idle", f"{size} units", median(times) * 1e6, "us") for size, times in idle.items()]
        for size, ticking in clocks.items():
            due = ticking.due(max(50, size // 100))
            rows.append(Row("tick due", f"{size} units, 1 % due: claim and an empty poll", due * 1e6, "us/unit"))
    ratio = median([large / small for small, large in zip(idle[sizes[0]], idle[sizes[-1]], strict=True)])
    rows.append(Row("tick idle", f"{sizes[-1]} units against {sizes[0]}", ratio, "x", 1.5, False))
    return rows


class Ticking:
    """A leader's clock over units that share one task, as tenants of it will."""

    def __init__(self, url: str, size: int) -> None:
        app = Celery("clock", broker=url, set_as_current=False)
        perpetual = Perpetual(app)

        def nothing() -> None:
            return None

        app.task(base=PerpetualTask, poll_every=3600, next_batch=nothing, name="clock.nothing", shared=False)(nothing)
        app.finalize()
        one = discover(app).tasks["clock.nothing"]
        names = [SimpleNamespace(name=f"clock.nothing-{n}") for n in range(size)]
        self.units = [dataclasses.replace(one, task=name) for name in names]
        roster: Any = SimpleNamespace(
            units={each.unit: each for each in self.units}, disabled=set(), version=0, refresh=lambda: None
        )
        self.store = perpetual.store
        maxlen = perpetual.settings.events_maxlen
        self.leadership = Leadership(self.store, app_name="clock", ttl=15, events_maxlen=maxlen)
        runner = Runner(app, self.store, maxlen)
        self.polls = PollThreads(runner.run, 8, 16)
        self.clock = Clock(self.store, self.leadership, roster, runner, self.polls, BaseRuns(self.store))

    def __enter__(self) -> Self:
        self.leadership.start(before_resigning=lambda: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.leadership.stop(5)
        self.store.close()

    def first(self) -> float:
        """Seconds of the first turn; then all units become known."""
        self.size_before = self.store.redis.info("memory")["used_memory"]
        begun = time.perf_counter()
        self.clock.turn()
        seconds = time.perf_counter() - begun
        deadline = time.monotonic() + 300
        keys = self.store.keys
        while self.store.redis.zcard(keys.units) < len(self.units) or self.polls.running:
            assert time.monotonic() < deadline
            self.put_off()
            self.clock.turn()
        self.put_off()
        return seconds

    def put_off(self) -> None:
        """Nothing is due for an hour."""
        redis, due = self.store.redis, self.store.keys.due
        while soon := redis.zrangebyscore(due, "-inf", self.store.now() + 60_000, 0, 5000):
            redis.zadd(due, dict.fromkeys(soon, self.store.now() + FAR), xx=True)

    def bytes_per_unit(self) -> float:
        return (self.store.redis.info("memory")["used_memory"] - self.size_before) / len(self.units)

    def idle(self) -> float:
        """Seconds of a turn with nothing due."""
        self.store.redis.config_resetstat()
        times = []
        for _ in range(IDLE_TURNS):
            begun = time.perf_counter()
            self.clock.turn()
            times.append(time.perf_counter() - begun)
        done = executed(self.store.redis)
        assert "zadd" not in done, done
        return median(times)

    def due(self, count: int) -> float:
        """Seconds per due unit, with an empty poll each."""
        keys, redis = self.store.keys, self.store.redis
        pipe = redis.pipeline(transaction=False)
        for each in self.units:
            pipe.hexists(keys.unit(each.unit), "anchor")
        # Those whose first poll is over have their next slot in an hour.
        fresh = [each.unit for each, polled in zip(self.units, pipe.execute(), strict=True) if not polled][:count]
        assert len(fresh) == count
        redis.zadd(keys.due, dict.fromkeys(fresh, self.store.now()))
        redis.config_resetstat()
        begun = time.perf_counter()
        deadline = time.monotonic() + 300
        while redis.zcount(keys.due, "-inf", self.store.now()) or self.polls.running:
            assert time.monotonic() < deadline
            time.sleep(min(self.clock.turn(), 0.001))
        seconds = time.perf_counter() - begun
        # The outcome of every poll is an event.
        assert executed(redis)["xadd"] == count
        return seconds / count
