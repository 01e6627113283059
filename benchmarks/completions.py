"""What completions cost and gain, against Celery's own Redis result backend, side by side in one run.

    python benchmarks/completions.py [--quick] [--json FILE]

Three parts, each with an A/A control (the same thing measured twice; what differs less than it does says nothing):

latency   from the last line of a task's body to its waiter being awake
many      one waiter and many ids: CPU of the waiter, and its lag behind the last end
worker    CPU per trivial task, worker and Redis together

Variants are interleaved, medians are compared, and only the ratios mean anything: the figures are this machine's, now.
The server's own counts prove that each variant did what it says.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis
from celery import Celery
from celery.result import ResultSet

from celery_perpetual import Perpetual
from celery_perpetual.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]

MODULE = """
import os, time
from celery import Celery

app = Celery("bench", broker=os.environ["URL"], backend=os.environ.get("BACKEND") or None, set_as_current=False)
app.conf.update(task_ignore_result="BACKEND" not in os.environ, broker_connection_retry_on_startup=True,
                worker_prefetch_multiplier=64, perpetual_completions="all", perpetual_key_prefix="bench")
if os.environ.get("COMPLETIONS"):
    from celery_perpetual import Perpetual
    perpetual = Perpetual(app)

@app.task(name="bench.nothing")
def nothing():
    pass

@app.task(name="bench.clock")
def clock(seconds):
    time.sleep(seconds)
    return time.monotonic()
"""


@dataclass
class Variant:
    """One way to end a task: an app of this process, and a worker on a queue of its own."""

    name: str
    app: Celery
    worker: subprocess.Popen[bytes]
    perpetual: Perpetual | None = None

    def send(self, task: str, *args: Any) -> Any:
        return self.app.send_task(task, args=args, queue=self.queue)

    @property
    def queue(self) -> str:
        return self.name.replace(" ", "-")

    def stop(self) -> None:
        os.killpg(self.worker.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.killpg(self.worker.pid, signal.SIGCONT)

    def cpu(self) -> float:
        """Seconds of CPU that the worker and its children have used."""
        main = psutil.Process(self.worker.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (main, *main.children(recursive=True)))


@contextmanager
def variants(url: str, names: dict[str, tuple[bool, bool]], concurrency: int) -> Iterator[list[Variant]]:
    """Start a worker per name; the two flags say whether it has a result backend and completions."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bench.py").write_text(MODULE)
        started = []
        for name, (backend, completions) in names.items():
            env = {**os.environ, "URL": url, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
            env |= {"BACKEND": url} if backend else {}
            env |= {"COMPLETIONS": "1"} if completions else {}
            argv = ["worker", "-P", "prefork", "-c", str(concurrency), "-Q", name.replace(" ", "-"), "-n", f"{name}@b"]
            argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            worker = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "bench", *argv],
                cwd=folder, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            stack.callback(worker.wait)
            stack.callback(os.killpg, worker.pid, signal.SIGKILL)
            app = Celery("bench", broker=url, backend=url if backend else None, set_as_current=False)
            app.conf.update(perpetual_completions="all", perpetual_key_prefix="bench")
            started.append(Variant(name, app, worker, Perpetual(app) if completions else None))
        yield started


def pending(client: redis.Redis, queue: str) -> int:
    return int(client.llen(queue)) + int(client.hlen("unacked"))


def run_out(client: redis.Redis, queue: str) -> None:
    """Wait until a queue is empty and all of it is done."""
    while pending(client, queue):
        time.sleep(0.05)
    time.sleep(0.2)


def counts(client: redis.Redis) -> dict[str, int]:
    """How often the server has run each command."""
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in client.info("commandstats").items()}


def since(client: redis.Redis, before: dict[str, int], *names: str) -> int:
    after = counts(client)
    return sum(after.get(name, 0) - before.get(name, 0) for name in names)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def latency(url: str, samples: int) -> list[dict[str, Any]]:
    """From the last line of the body to the waiter."""
    names = {
        "AsyncResult.get": (True, False),
        "AsyncResult.get again": (True, False),
        "perpetual.wait": (False, True),
        "perpetual.wait and backend": (True, True),
    }
    taken: dict[str, list[float]] = {name: [] for name in names}

    def once(variant: Variant) -> float:
        sent = variant.send("bench.clock", 0.02)
        end = sent.get(timeout=30) if variant.perpetual is None else variant.perpetual.wait(sent.id, 30).result
        return time.monotonic() - end

    with variants(url, names, 1) as every:
        for variant in every:
            for _ in range(5):
                once(variant)
        for _ in range(samples):
            for variant in every:
                taken[variant.name].append(once(variant))
    base50, base99 = (percentile(taken["AsyncResult.get"], share) for share in (0.5, 0.99))
    return [
        {
            "variant": name, "p50 ms": 1000 * percentile(values, 0.5), "p99 ms": 1000 * percentile(values, 0.99),
            "p50 ratio": percentile(values, 0.5) / base50, "p99 ratio": percentile(values, 0.99) / base99,
        }
        for name, values in taken.items()
    ]  # fmt: skip


def many(url: str, number: int, rounds: int) -> list[dict[str, Any]]:
    """One waiter, many ids: while a real worker ends them, and when all have ended."""
    client = redis.Redis.from_url(url)

    def join(variant: Variant, sent: list[Any]) -> int:
        return len(ResultSet(sent, app=variant.app).join(timeout=600))

    def native(variant: Variant, sent: list[Any]) -> int:
        return len(ResultSet(sent, app=variant.app).join_native(timeout=600))

    def poll(variant: Variant, sent: list[Any]) -> int:
        left = {each.id for each in sent}
        while left:
            left = {each for each in left if not variant.app.AsyncResult(each).ready()}
            time.sleep(0.1)
        return len(sent)

    def completed(variant: Variant, sent: list[Any]) -> int:
        assert variant.perpetual is not None
        return sum(each.ok for each in variant.perpetual.as_completed([each.id for each in sent], 600))

    ways: list[tuple[str, str, Callable[[Variant, list[Any]], int]]] = [
        ("ResultSet.join", "backend", join),
        ("ResultSet.join again", "backend", join),
        ("ResultSet.join_native", "backend", native),
        ("poll ready() every 0.1 s", "backend", poll),
        ("as_completed", "completions", completed),
    ]
    figures: dict[str, list[tuple[float, float, float]]] = {name: [] for name, _, _ in ways}
    with variants(url, {"backend": (True, False), "completions": (False, True)}, 2) as both:
        by_name = {variant.name: variant for variant in both}
        for variant in both:
            variant.send("bench.nothing")
            run_out(client, variant.queue)
        for _ in range(rounds):
            for name, kind, way in ways:
                variant = by_name[kind]
                variant.stop()
                sent = [variant.send("bench.clock", 0) for _ in range(number)]
                variant.go_on()
                begun = time.process_time()
                assert way(variant, sent) == number
                cpu = time.process_time() - begun
                lag = time.monotonic() - last_end(variant, sent)
                fresh = [type(each)(each.id, app=variant.app) for each in sent]  # results remember what they know
                begun = time.monotonic()
                assert way(variant, fresh) == number
                figures[name].append((cpu / number, lag, time.monotonic() - begun))
                run_out(client, variant.queue)
                client.delete(*client.keys("celery-task-meta-*"), "x")
    client.close()
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in figures.items()
    }
    base = medians["ResultSet.join"]
    return [
        {
            "variant": name, "CPU us/id": 1e6 * cpu, "lag ms": 1000 * lag, "ended before: s": over,
            "CPU: x better": base[0] / cpu, "ended before: x better": base[2] / over,
        }
        for name, (cpu, lag, over) in medians.items()
    ]  # fmt: skip


def last_end(variant: Variant, sent: list[Any]) -> float:
    """When the last body of them ended; the ends are in order but for the pool's two processes."""
    if variant.perpetual is None:
        return max(variant.app.AsyncResult(each.id).result for each in sent[-50:])
    return max(variant.perpetual.completion(each.id).result for each in sent[-50:])


def worker(url: str, number: int, rounds: int) -> list[dict[str, Any]]:
    """CPU of worker and Redis per trivial task."""
    names = {
        "neither": (False, False),
        "neither again": (False, False),
        "result backend": (True, False),
        "completions": (False, True),
        "both": (True, True),
    }
    client = redis.Redis.from_url(url)
    taken: dict[str, list[float]] = {name: [] for name in names}
    with variants(url, names, 2) as every:
        for variant in every:  # workers that measure nothing stand still
            for _ in range(50):
                variant.send("bench.nothing")
            run_out(client, variant.queue)
            variant.stop()
        for _ in range(rounds):
            for variant in every:
                for _ in range(number):
                    variant.send("bench.nothing")
                before, cpu = counts(client), variant.cpu() + server_cpu(client)
                variant.go_on()
                run_out(client, variant.queue)
                taken[variant.name].append((variant.cpu() + server_cpu(client) - cpu) / number)
                variant.stop()
                backend, completions = names[variant.name]
                assert since(client, before, "setex", "set") == number * (backend + completions), variant.name
                assert since(client, before, "xadd") == number * completions, variant.name
                assert since(client, before, "publish") == number * (backend + 2 * completions), variant.name
        for variant in every:
            variant.go_on()
    client.close()
    medians = {name: 1e6 * statistics.median(values) for name, values in taken.items()}
    plain, backend_cost = medians["neither"], medians["result backend"] - medians["neither"]
    return [
        {
            "variant": name, "CPU us/task": cpu, "ratio": cpu / plain, "added us": cpu - plain,
            "added / result backend's": (cpu - plain) / backend_cost,
        }
        for name, cpu in medians.items()
    ]  # fmt: skip


def server_cpu(client: redis.Redis) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print a table."""
    columns = list(rows[0])
    cells = [[value if isinstance(value, str) else f"{value:.3g}" for value in row.values()] for row in rows]
    widths = [max(len(line[n]) for line in [columns, *cells]) for n in range(len(columns))]
    print(f"\n{title}")
    for line in [columns, *cells]:
        print("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run, and roughly")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("parts", nargs="*", help="latency, many, worker; all of them by default")
    options = parser.parse_args()
    quick = options.quick
    parts: dict[str, Callable[[str], list[dict[str, Any]]]] = {
        "latency": lambda url: latency(url, 60 if quick else 400),
        "many": lambda url: many(url, 1000 if quick else 10_000, 1 if quick else 3),
        "worker": lambda url: worker(url, 500 if quick else 3000, 3 if quick else 7),
    }
    found = {}
    for name in options.parts or parts:
        with EmbeddedServer() as server:
            found[name] = parts[name](server.url)
        show(name, found[name])
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"quick": quick, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
