"""Workers with and without a result backend, completions and leases, each on a queue of its own.

They can be stopped while others run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from celery import Celery

from celery_perpetual import Item, Perpetual, PerpetualTask

if TYPE_CHECKING:
    import redis

ROOT = Path(__file__).parents[1]

MODULE = """
import os, time
from celery import Celery

app = Celery("bench", broker=os.environ["URL"], backend=os.environ.get("BACKEND") or None, set_as_current=False)
app.conf.update(task_ignore_result="BACKEND" not in os.environ, broker_connection_retry_on_startup=True,
                worker_prefetch_multiplier=64, perpetual_completions="all", perpetual_key_prefix="bench",
                perpetual_leases="all" if os.environ.get("LEASES") else "perpetual")
if os.environ.get("COMPLETIONS"):
    from celery_perpetual import Perpetual
    from celery_perpetual import PerpetualTask
    perpetual = Perpetual(app)

    @app.task(name="bench.item", base=PerpetualTask, poll_every=3600, next_batch=list)
    def item(n):
        pass

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
    """One way to end a task: an app of this process, and workers on a queue of their own."""

    name: str
    app: Celery
    workers: list[subprocess.Popen[bytes]]
    perpetual: Perpetual | None = None

    items: bool = False
    """Whether its tasks are the items of a poll."""
    enqueued: int = 0
    """How many items it has polled."""

    def send(self, task: str, *args: Any) -> Any:
        return self.app.send_task(task, args=args, queue=self.queue)

    def enqueue(self, count: int) -> None:
        """Fill the queue with tasks that do nothing."""
        if self.items:
            assert self.perpetual is not None
            task = self.app.tasks["bench.item"]
            rows = range(self.enqueued, self.enqueued + count)
            task.next_batch = lambda: [Item(kwargs={"n": n}, key=n, queue=self.queue) for n in rows]
            assert self.perpetual.poll(task).count == count
            self.enqueued += count
            return
        for _ in range(count):
            self.send("bench.nothing")

    @property
    def queue(self) -> str:
        return self.name.replace(" ", "-")

    def stop(self) -> None:
        for worker in self.workers:
            os.killpg(worker.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        for worker in self.workers:
            os.killpg(worker.pid, signal.SIGCONT)

    def cpu(self) -> float:
        """Seconds of CPU that the workers and their children have used."""
        mains = [psutil.Process(worker.pid) for worker in self.workers]
        return sum(cpu_of(each.pid) for main in mains for each in (main, *main.children(recursive=True)))


def cpu_of(pid: int) -> float:
    """Seconds that all threads of a process have run, to the nanosecond, by the kernel's own account."""
    nanoseconds = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


def item(n: int) -> int:
    """The task of the items; its body runs in the worker's module."""
    return n


@contextmanager
def variants(
    url: str, names: Mapping[str, tuple[bool, ...]], concurrency: int, *, workers: int = 1
) -> Iterator[list[Variant]]:
    """Start a worker per name, or several.

    The flags say whether it has a result backend, completions, leases for all tasks, and items of a poll as its tasks.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bench.py").write_text(MODULE)
        started = []
        for name, flags in names.items():
            backend, completions, leases, items = (*flags, False, False)[:4]
            env = {**os.environ, "URL": url, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
            env |= {"BACKEND": url} if backend else {}
            env |= {"COMPLETIONS": "1"} if completions else {}
            env |= {"LEASES": "1"} if leases else {}
            argv = ["worker", "-P", "prefork", "-c", str(concurrency), "-Q", name.replace(" ", "-")]
            argv += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
            running = []
            for number in range(workers):
                worker = subprocess.Popen(
                    [sys.executable, "-m", "celery", "-A", "bench", *argv, "-n", f"{name}{number}@b"],
                    cwd=folder, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )  # fmt: skip
                stack.callback(worker.wait)
                stack.callback(os.killpg, worker.pid, signal.SIGKILL)
                running.append(worker)
            app = Celery("bench", broker=url, backend=url if backend else None, set_as_current=False)
            app.conf.update(perpetual_completions="all", perpetual_key_prefix="bench")
            perpetual = Perpetual(app) if completions else None
            if items:
                app.task(
                    name="bench.item", base=PerpetualTask, poll_every=3600, next_batch=list, max_in_flight=10**6
                )(item)  # fmt: skip
            started.append(Variant(name, app, running, perpetual, items))
        yield started


def pending(client: redis.Redis, queue: str) -> int:
    return int(client.llen(queue)) + int(client.hlen("unacked"))


def run_out(client: redis.Redis, queue: str) -> None:
    """Wait until a queue is empty and all of it is done."""
    while pending(client, queue):
        time.sleep(0.05)
    time.sleep(0.2)
