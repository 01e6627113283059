"""From ``kill -9`` to the second start of the task that ran: of a pool process, and of a whole worker.

Each way has a database of its own on one server, a worker that runs the task and dies, and another one on the same
queue. All are killed within a moment and wait side by side. A task that has not begun again in time is either still in
the broker's books or gone.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import redis
from celery import Celery
from measuring import Row, executed, median
from servers import bench_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
TTL = 5.0

#: Seconds after which nothing is waited for any more.
BOUND = 30.0

READY = 60.0

MODULE = """
import os, time
import redis
from celery import Celery

app = Celery("recovery", broker=os.environ["URL"], set_as_current=False)
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)
options = {}
if os.environ["WAY"] == "perpetual":
    from celery_perpetual import Perpetual, PerpetualTask
    app.conf.update(perpetual_lease_ttl=float(os.environ["TTL"]), perpetual_key_prefix=os.environ["PREFIX"])
    perpetual = Perpetual(app)
    options = {"base": PerpetualTask, "poll_every": 3600, "next_batch": list}
elif os.environ["WAY"] != "default":
    options = {"acks_late": True, "reject_on_worker_lost": os.environ["WAY"] == "reject"}
client = redis.Redis.from_url(os.environ["URL"])

@app.task(bind=True, name="recovery.work", **options)
def work(self):
    starts = client.rpush(f"starts:{self.request.id}", f"{time.monotonic()} {os.getpid()} {os.getppid()}")
    if starts == 1:
        time.sleep(600)
"""

WAYS = {
    "leases": "perpetual",
    "plain": "default",
    "acks_late": "late",
    "acks_late, reject_on_worker_lost": "reject",
    "leases again": "perpetual",
}


class Start(NamedTuple):
    """One start of the task, as it says itself."""

    at: float
    pid: int
    worker: int


@dataclass
class Way:
    """Workers of one way, and a beat where it needs one."""

    name: str
    folder: Path
    url: str
    prefix: str
    stack: ExitStack

    def __post_init__(self) -> None:
        self.client: redis.Redis = redis.Redis.from_url(self.url)
        self.app = Celery("recovery", broker=self.url, set_as_current=False)
        self.ours = WAYS[self.name] == "perpetual"
        self._logs: list[Path] = []
        if self.ours:
            self.run("beat", "-s", str(self.folder / f"{self.prefix}-schedule"))
        self.workers = [self.worker(), self.worker()]
        self.sent: list[str] = []

    def run(self, *argv: str) -> subprocess.Popen[bytes]:
        env = {**os.environ, "URL": self.url, "WAY": WAYS[self.name], "PREFIX": self.prefix, "TTL": str(TTL)}
        env["PYTHONPATH"] = f"{self.folder}{os.pathsep}{ROOT}"
        log = self.folder / f"{self.prefix}-{len(self._logs)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "recovery_app", *argv, "-l", "INFO"],
                cwd=self.folder, env=env, start_new_session=True, stdout=output, stderr=output,
            )  # fmt: skip
        self._logs.append(log)
        self.stack.callback(end, process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        name = f"{self.prefix}-{len(self._logs)}@host"
        return self.run(
            "worker", "-P", "prefork", "-c", "1", "-n", name,
            "--without-gossip", "--without-mingle", "--without-heartbeat",
        )  # fmt: skip

    def ready(self) -> bool:
        """Whether its workers receive, and its beat leads."""
        logs = [log.read_text() for log in self._logs]
        if self.ours:
            return all("ready." in log for log in logs[1:]) and bool(self.client.exists(f"{self.prefix}:leader"))
        return all("ready." in log for log in logs)

    def said(self) -> str:
        """The ends of its logs."""
        return "\n".join(f"{log.name}: {log.read_text()[-1500:]}" for log in self._logs)

    def send(self) -> None:
        self.sent.append(str(self.app.send_task("recovery.work").id))

    def starts(self) -> list[Start]:
        """Of the task that was sent last."""
        found = self.client.lrange(f"starts:{self.sent[-1]}", 0, -1)
        said = [each.decode().split() for each in found]
        return [Start(float(at), int(pid), int(worker)) for at, pid, worker in said]

    def kill_child(self) -> None:
        os.kill(self.starts()[0].pid, signal.SIGKILL)

    def kill_worker(self) -> None:
        os.killpg(self.starts()[0].worker, signal.SIGKILL)

    def kept(self) -> bool:
        """Whether the broker still has the task that was sent last."""
        held = [*self.client.hvals("unacked"), *self.client.lrange("celery", 0, -1)]
        return any(self.sent[-1].encode() in each for each in held)

    def counted(self, kills: int) -> int:
        """Check what the store has counted, one lost and one recovered lease per kill; returns pushes to the right."""
        starts = [int(self.client.llen(f"starts:{each}")) for each in self.sent]
        assert set(starts) <= {1, 2}, starts
        if not self.ours:
            return sum(starts)
        events = [fields[b"event"] for _, fields in self.client.xrange(f"{self.prefix}:events")]
        assert events.count(b"lease.lost") == events.count(b"lease.recovered") == kills, events
        return sum(starts) + kills


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its children, which may be dead."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@dataclass
class Taken:
    """The end of one task."""

    seconds: float | None
    """Until its second start; None = there was none in time."""
    kept: bool

    """Whether the broker had it when the wait ended."""


def measure(*, rounds: int) -> list[Row]:
    """Rows for both kills and every way; each round has a server and workers of its own."""
    taken: dict[tuple[str, str], list[Taken]] = {}
    for number in range(rounds):
        with bench_server() as server, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            (Path(folder) / "recovery_app.py").write_text(MODULE)
            url = server.url.removesuffix("/0")
            ways = [Way(name, Path(folder), f"{url}/{n}", f"way-{n}", stack) for n, name in enumerate(WAYS)]
            for what, name, one in both_kills(ways[number % len(ways) :] + ways[: number % len(ways)]):
                taken.setdefault((what, name), []).append(one)
    return rows(taken)


def both_kills(ways: list[Way]) -> Iterator[tuple[str, str, Taken]]:
    """One round."""
    for way in ways:
        wait(way.ready, way.said)
    client = ways[0].client
    client.config_resetstat()
    for what, kill in (("child", Way.kill_child), ("worker", Way.kill_worker)):
        for name, one in once(ways, kill):
            yield what, name, one
    # Tasks push their starts to the right, and so does what puts a task of ours to the front; nothing else does.
    pushes = sum(way.counted(2) for way in ways)
    done = executed(client)
    assert done["rpush"] == pushes, (done, pushes)


def once(ways: list[Way], kill: Callable[[Way], None]) -> Iterator[tuple[str, Taken]]:
    """Kill what runs the task of each way, and wait for all."""
    for way in ways:
        way.send()
    for way in ways:
        wait(way.starts, way.said)
    time.sleep(1)  # workers have reported what they have
    killed = {}
    for way in ways:
        killed[way.name] = time.monotonic()
        kill(way)
    until = time.monotonic() + BOUND
    while time.monotonic() < until and not all(len(way.starts()) > 1 for way in ways):
        time.sleep(0.1)
    for way in ways:
        starts = way.starts()
        seconds = starts[1].at - killed[way.name] if len(starts) > 1 else None
        yield way.name, Taken(seconds, way.kept())


def wait(condition: Callable[[], object], said: Callable[[], str]) -> None:
    """Wait until something is so; if it is not in time, the logs say why."""
    deadline = time.monotonic() + READY
    while not condition():
        assert time.monotonic() < deadline, said()
        time.sleep(0.1)


def rows(taken: dict[tuple[str, str], list[Taken]]) -> list[Row]:
    """The slowest of all rounds: a recovery is late when one is."""
    must = {"child": 2.0, "worker": TTL + 5}
    found = []
    for (what, name), several in taken.items():
        seconds = [one.seconds for one in several]
        back = [each for each in seconds if each is not None]
        ours = WAYS[name] == "perpetual"
        detail: dict[str, Any] = {"seconds": seconds, "kept by the broker": [one.kept for one in several]}
        text = ""
        if len(back) < len(several):
            text = f"> {BOUND:g}" if any(one.kept for one in several if one.seconds is None) else "lost"
        seen, limit = BOUND if text else max(back), must[what] if ours else None
        slowest = "" if text else ", slowest"
        found.append(Row("recovery", f"kill -9 of a {what}: {name}{slowest}", seen, "s", limit, False, detail, text))
        if not text:
            found.append(Row("recovery", f"kill -9 of a {what}: {name}, median", median(back), "s"))
    return found
