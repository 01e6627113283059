"""Enqueue: from the return of ``next_batch`` until every message is in the broker, against ``apply_async`` loops."""

from __future__ import annotations

import importlib
import os
import sys
import time
from contextlib import ExitStack, nullcontext
from typing import TYPE_CHECKING, Any

from measuring import HERE, Row, executed, longest_script_ms, median, wait_for_all, worker
from peers import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CHUNK = 500


def measure(broker: str, store: str, folder: Path, *, items: int, rounds: int) -> list[Row]:
    """Rows of one broker; every message that was counted is run by a worker at the end."""
    os.environ.update(
        BENCH_BROKER=broker, BENCH_STORE=store, BENCH_ITEMS=str(items), BENCH_ROUNDS=str(rounds), BENCH_HERE=str(HERE)
    )
    sys.modules.pop("project", None)
    with ExitStack() as stack:
        rq = None
        if not broker.startswith("amqp") and Peer.installed():
            # A database of its own on the same server.
            rq = stack.enter_context(Peer("peer_rq.py", f"{broker.removesuffix('/0')}/1"))
        bench = Enqueue(importlib.import_module("project"), broker, rq)
        for number in range(rounds):
            bench.round(number)
    with worker(folder):
        wait_for_all(bench.client, bench.counted, 120 + sum(bench.counted.values()) / 50)
    return bench.rows()


class Enqueue:
    """One run over one broker."""

    def __init__(self, project: Any, broker: str, rq: Peer | None) -> None:
        self.project, self.client, self.rq = project, project.client, rq
        self.rabbit = broker.startswith("amqp")
        self.loop_items = min(project.ITEMS, 1000)
        self.counted: dict[str, int] = {}
        self.times: dict[str, list[float]] = {}
        self.blocking: list[float] = []
        self.client.config_set("slowlog-log-slower-than", 100)
        self.client.config_set("slowlog-max-len", 10_000)
        for _ in range(20):  # declare queues, open pools
            project.plain.apply_async(kwargs={"name": "warm", "n": 0})
        if rq is not None:
            rq("enqueue", 20)
            rq("empty")

    def round(self, number: int) -> None:
        """A B C D A, so that whatever slows the machine down slows everything down."""
        loop = self.loop
        self.take("loop", loop(f"loop-{number}"))
        self.take("keyed", self.poll("keyed", number))
        self.take("unkeyed", self.poll("unkeyed", number))
        if not self.rabbit:
            self.take("batch", self.batch(f"batch-{number}"))
        if self.rq is not None:
            self.take("rq", self.peer("enqueue", self.loop_items))
            self.take("rq many", self.peer("enqueue_many", self.project.ITEMS))
        self.take("loop again", loop(f"again-{number}"))

    def take(self, name: str, seconds_per_item: float) -> None:
        self.times.setdefault(name, []).append(seconds_per_item)

    def poll(self, kind: str, number: int) -> float:
        task, items = getattr(self.project, kind)[number], self.project.ITEMS
        before = self.waiting()
        self.client.config_resetstat()
        self.client.slowlog_reset()
        outcome = self.project.perpetual.poll(task)
        seconds = time.perf_counter() - self.project.returned[0]
        done = executed(self.client)
        assert outcome.count == items, outcome
        assert self.client.zcard("perpetual:outbox") == 0
        chunks = -(-items // CHUNK)
        assert done["rpush"] == chunks, done
        # Each chunk: its keys looked up, its records staged, its messages published.
        assert done["evalsha"] <= 3 * chunks + 6, done
        if not self.rabbit:
            assert self.waiting() - before == items
            # One push per chunk, and the outcome's.
            assert done["lpush"] == chunks + 1, done
        self.counted[f"{kind}-{number}"] = items
        self.blocking.append(longest_script_ms(self.client))
        return seconds / items

    def loop(self, name: str) -> float:
        return self.timed(name, lambda: nullcontext(None), {})

    def batch(self, name: str) -> float:
        """Kombu's own batches around ``apply_async``."""
        with self.project.app.producer_pool.acquire(block=True) as producer:
            if not hasattr(producer, "batch"):
                return float("nan")
            return self.timed(name, lambda: producer.batch(1000), {"producer": producer, "retry": False})

    def peer(self, way: str, jobs: int) -> float:
        assert self.rq is not None
        self.client.config_resetstat()
        seconds: float = self.rq(way, jobs)
        done = executed(self.client)
        # A push and two writes per job, whether one by one or together.
        assert done["rpush"] == jobs, done
        assert done["hset"] == 2 * jobs, done
        assert done["exec"] == (1 if way == "enqueue_many" else 2 * jobs), done
        assert self.rq("empty") == jobs
        return seconds / jobs

    def timed(self, name: str, around: Callable[[], Any], options: dict[str, Any]) -> float:
        send = self.project.plain.apply_async
        self.client.config_resetstat()
        begun = time.perf_counter()
        with around():
            for n in range(self.loop_items):
                send(kwargs={"name": name, "n": n}, **options)
        seconds = time.perf_counter() - begun
        if not self.rabbit:
            assert executed(self.client)["lpush"] == self.loop_items
        self.counted[name] = self.loop_items
        return seconds / self.loop_items

    def waiting(self) -> int:
        return int(self.client.llen("celery"))

    def rows(self) -> list[Row]:
        """Medians of the ratios within each round."""
        loops = [(one + two) / 2 for one, two in zip(self.times["loop"], self.times["loop again"], strict=True)]

        def ratio(name: str) -> float:
            return median([loop / mine for loop, mine in zip(loops, self.times[name], strict=True)])

        items, where = self.project.ITEMS, "RabbitMQ" if self.rabbit else "Redis"
        microseconds = {name: round(median(values) * 1e6, 2) for name, values in self.times.items()}
        detail = {"items": items, "us_per_item": microseconds, "run_by_a_worker": sum(self.counted.values())}
        control = median([b / a for a, b in zip(self.times["loop"], self.times["loop again"], strict=True)])
        must = (8, 8) if self.rabbit else (28, 36)
        rows = [
            Row("enqueue", f"{where}: one poll of {items}, item keys", ratio("keyed"), "x loop", must[0], True, detail),
            Row("enqueue", f"{where}: the same, key=False", ratio("unkeyed"), "x loop", must[1]),
            Row("control", f"{where}: apply_async loop against itself", control, "x"),
        ]
        if self.rq is not None:
            rows[2:2] = [
                Row("enqueue", "Redis: RQ enqueue", ratio("rq"), "x loop"),
                Row("enqueue", f"Redis: RQ enqueue_many of {items}", ratio("rq many"), "x loop"),
            ]
        if not self.rabbit:
            rows.insert(2, Row("enqueue", "Redis: apply_async in kombu's Producer.batch", ratio("batch"), "x loop"))
            # The server's clock goes on while it is not scheduled, so the least disturbed poll shows most.
            detail = {"of each poll": self.blocking}
            rows.append(
                Row("blocking", "longest script call, least disturbed poll", min(self.blocking), "ms", 5, False, detail)
            )
        return rows
