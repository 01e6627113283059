"""A leader's clock over units that share one task, driven turn by turn.

As a program it prints the RSS of a process with so many units: at the start, with the units, and after all turns.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery import Celery
from measuring import executed, median

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.beat.clock import Clock
from celery_perpetual.beat.entry_runs import EntryRuns
from celery_perpetual.beat.lead_health import LeadHealth
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.poll_source import PollSource
from celery_perpetual.polling.runner import Runner
from celery_perpetual.polling.threads import PollThreads
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.unit import TaskUnit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Self

FAR = 3_600_000


class Errors(logging.Handler):
    """A clock reports its errors and turns on; what is measured then is no clock."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(self.format(record))


def idle_in_turns(clocks: Mapping[str, Ticking], turns: int) -> dict[str, float]:
    """Seconds of a turn of each clock with nothing due, the median of so many; every one comes after another one."""
    times: dict[str, list[float]] = {name: [] for name in clocks}
    for each in clocks.values():
        each.store.redis.config_resetstat()
    for _ in range(turns):
        for name, each in clocks.items():
            times[name].append(each.idle())
    for each in clocks.values():
        done = executed(each.store.redis)
        assert done["evalsha"] >= turns, done
        assert not {"hset", "hmget"} & done.keys(), done  # of a claim; the lead that is renewed leaves a mark by ZADD
    return {name: median(seen) for name, seen in times.items()}


class Ticking:
    """The clock, its store and its units; beside them one unit that brings rows when it is asked to."""

    def __init__(self, url: str, size: int) -> None:
        self._errors = Errors()
        logging.getLogger("celery_perpetual").addHandler(self._errors)
        app = Celery("clock", broker=url, set_as_current=False)
        self.perpetual = Perpetual(app)
        self._rows: list[dict[str, int]] = []

        def nothing(**_: int) -> None:
            return None

        def found() -> list[dict[str, int]]:
            rows, self._rows = self._rows, []
            return rows

        for name, next_batch in (("nothing", lambda: None), ("rows", found)):
            app.task(
                base=PerpetualTask, poll_every=3600, next_batch=next_batch, max_in_flight=1_000_000, ignore_result=True,
                name=f"clock.{name}", shared=False,
            )(nothing)  # fmt: skip
        app.finalize()
        tasks = discover(app).tasks
        self.rss = {"start": rss()}
        self.bringer = TaskUnit(tasks["clock.rows"])
        one = tasks["clock.nothing"]
        names = [SimpleNamespace(name=f"clock.nothing-{n}") for n in range(size - 1)]
        self.units = [self.bringer, *(TaskUnit(dataclasses.replace(one, task=name)) for name in names)]
        self._polled = 1  # how many of them have been polled; the bringer is on its own
        roster: Any = SimpleNamespace(
            units={each.name: each for each in self.units}, disabled=set(), version=0, refresh=lambda _: None,
            take_changes=lambda: ([], []), may_come=lambda _: False, has_low_water=False, is_hurried=False,
        )  # fmt: skip
        self.rss["units"] = rss()
        self.store = self.perpetual.store
        self.leadership = Leadership(self.store, app_name="clock", ttl=15, health=LeadHealth())
        runner = Runner(app, self.store)
        # As beat's engine puts them together.
        self.polls = PollThreads(runner.poll, self.perpetual.settings.poll_threads, 16)
        self.source = PollSource(self.store.clone(), roster, runner, self.polls, self.leadership.mark)
        self.clock = Clock(self.leadership, EntryRuns(self.store), [self.source])
        self.source.call_when_ready(self.clock.wake)

    def __enter__(self) -> Self:
        self.leadership.start(before_resigning=lambda _: None, saw_epoch=lambda _: None)
        return self

    def __exit__(self, *_: object) -> None:
        self.leadership.stop(5)
        self.store.close()
        assert not self._errors.seen, self._errors.seen[0]

    def first(self) -> float:
        """Seconds of the first turn; then all units become known."""
        self._size_before = self.store.redis.info("memory")["used_memory"]
        begun = time.perf_counter()
        self.clock.turn()
        seconds = time.perf_counter() - begun
        deadline = time.monotonic() + 300
        while self.store.redis.zcard(self.store.keys.units) < len(self.units) or self.polls.running:
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
        """Of units that are known and have not been polled yet."""
        return float(self.store.redis.info("memory")["used_memory"] - self._size_before) / len(self.units)

    def idle(self) -> float:
        """Seconds of a turn that asks the store, with nothing due."""
        self._forget_due()
        begun = time.perf_counter()
        self.clock.turn()
        return time.perf_counter() - begun

    def due(self, count: int) -> float:
        """Seconds per due unit, with an empty poll each."""
        seconds = self._run([each.name for each in self._not_polled(count)])
        # The outcome of every poll is an event.
        done = executed(self.store.redis)
        assert done["xadd"] == count, done
        return seconds / count

    def rows(self, count: int) -> float:
        """Seconds per row that one due unit brings, until all of them are in the broker and in the ledger."""
        self._rows = [{"row": self._polled * count + n} for n in range(count)]
        keys, redis = self.store.keys, self.store.redis
        redis.hdel(keys.unit(self.bringer.name), "slot", "anchor")  # as if it had never been polled
        before = redis.llen("celery")
        seconds = self._run([self.bringer.name])
        assert redis.llen("celery") - before == count
        assert not redis.zcard(keys.outbox)
        assert executed(redis)["xadd"] == 1
        return seconds / count

    def _forget_due(self) -> None:
        """Have the next turn ask the store what is due."""
        self.source._reader.forget()  # noqa: SLF001  # from here a unit is made due behind the back of the clock

    def _not_polled(self, count: int) -> list[Any]:
        """Units of which none has had its first poll; the next slot of the others is in an hour."""
        keys, redis, fresh = self.store.keys, self.store.redis, []
        while len(fresh) < count:
            part = self.units[self._polled : self._polled + count]
            assert part, "too few units"
            pipe = redis.pipeline(transaction=False)
            for each in part:
                pipe.hexists(keys.unit(each.name), "anchor")
            fresh += [each for each, polled in zip(part, pipe.execute(), strict=True) if not polled]
            self._polled += len(part)
        return fresh[:count]

    def _run(self, units: list[str]) -> float:
        """Seconds of the turns until these units, which become due now, have been polled."""
        keys, redis = self.store.keys, self.store.redis
        redis.zadd(keys.due, dict.fromkeys(units, self.store.now()))
        self._forget_due()  # else these units are seen within half a second
        redis.config_resetstat()
        begun = time.perf_counter()
        deadline = time.monotonic() + 300
        # As the clock's own thread does it: an end of a poll wakes it. It pauses long where nothing is due.
        while (pause := self.clock.turn()) < 0.1 or self.polls.running:
            assert time.monotonic() < deadline
            self.clock.rest(pause)
        return time.perf_counter() - begun


def rss() -> int:
    """Bytes of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    with Ticking(sys.argv[1], int(sys.argv[2])) as ticking:
        ticking.first()
        idle_in_turns({"": ticking}, 100)
        ticking.due(min(100, int(sys.argv[2]) // 10))
        print(json.dumps({**ticking.rss, "after": rss()}))
