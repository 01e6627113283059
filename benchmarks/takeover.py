"""Two beats: from the stop of the one that leads, and from its ``kill -9``, to the first poll by the other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import redis
from measuring import Row
from servers import bench_server

if TYPE_CHECKING:
    from celery_perpetual.embedded import EmbeddedServer

ROOT = Path(__file__).parents[1]
TTL = 5.0
READY = 60.0

MODULE = """
import os, time
import redis
from celery import Celery, signals
from celery_perpetual import Perpetual, PerpetualTask

app = Celery("takeover", broker=os.environ["URL"], set_as_current=False)
app.conf.perpetual_leader_ttl = float(os.environ["TTL"])
perpetual = Perpetual(app)
client = redis.Redis.from_url(os.environ["URL"])

@signals.beat_init.connect(weak=False)
def ready(**_):
    client.rpush("ready", os.getpid())

def note():
    client.rpush(f"polls:{os.getpid()}", repr(time.monotonic()))

@app.task(base=PerpetualTask, name="takeover.work", poll_every=0.2, next_batch=note)
def work(): ...
"""


class Beats:
    """Beats of one app, in processes of their own."""

    def __init__(self, server: EmbeddedServer, folder: Path) -> None:
        (folder / "takeover.py").write_text(MODULE)
        self.client: redis.Redis = redis.Redis.from_url(server.url)
        self._folder = folder
        self._env = {**os.environ, "URL": server.url, "TTL": str(TTL), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}

    def start(self, stack: ExitStack) -> subprocess.Popen[bytes]:
        """Start one, and wait until it turns."""
        argv = ["-A", "takeover", "beat", "-l", "WARNING", "--pidfile="]
        beat = subprocess.Popen(
            [sys.executable, "-m", "celery", *argv],
            cwd=self._folder, env=self._env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(beat.wait)
        stack.callback(beat.kill)
        deadline = time.monotonic() + READY
        while str(beat.pid).encode() not in self.client.lrange("ready", 0, -1):
            assert time.monotonic() < deadline, "a beat did not start"
            time.sleep(0.05)
        return beat

    def first_poll(self, beat: subprocess.Popen[bytes], seconds: float) -> float:
        """Wait for it; its monotonic time."""
        deadline = time.monotonic() + seconds
        while (text := self.client.lindex(f"polls:{beat.pid}", 0)) is None:
            assert time.monotonic() < deadline, "a beat has not polled"
            time.sleep(0.01)
        return float(text)


def measure(*, rounds: int) -> list[Row]:
    """The slowest of the rounds, for a leader that is stopped and for one that is killed."""
    taken: dict[signal.Signals, list[float]] = {signal.SIGTERM: [], signal.SIGKILL: []}
    for _ in range(rounds):
        for how, seconds in taken.items():
            seconds.append(once(how))
    musts = {signal.SIGTERM: ("stopped", 1.0), signal.SIGKILL: ("killed", TTL + 1)}
    return [
        Row(
            "take-over", f"leader {what}, until the other polls, slowest of {rounds}", max(taken[how]), "s", must, False
        )
        for how, (what, must) in musts.items()
    ]


def once(how: signal.Signals) -> float:
    """Seconds from the signal to the first poll by the other beat."""
    with bench_server() as server, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        beats = Beats(server, Path(folder))
        leader = beats.start(stack)
        beats.first_poll(leader, READY)
        other = beats.start(stack)
        time.sleep(1.5)  # any moment between two renewals of the lead
        assert not beats.client.exists(f"polls:{other.pid}"), "both beats poll"
        at = time.monotonic()
        leader.send_signal(how)
        taken = beats.first_poll(other, 60) - at
        beats.client.close()
    return taken
