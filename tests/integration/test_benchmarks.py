"""The benchmarks reach into the house; here they are run small, so that they follow when it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from celery_perpetual.embedded import EmbeddedServer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> str:
    """What a program of the benchmarks prints."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_clocks_bench_still_drives_a_clock():
    """First turn, idle turns and due units of a small clock, with the checks that the bench makes of each."""
    with EmbeddedServer() as server:
        seen = json.loads(run("ticking.py", server.url, "50"))
    assert 0 < seen["start"] <= seen["after"]


def test_the_bench_of_entries_still_ticks():
    """Both sides tick without anything to send, over each base."""
    for base in ("celery", "django", "redbeat"):
        with EmbeddedServer() as server:
            seen = json.loads(run("entry_ticks.py", base, server.url, "30", "20"))
        assert len(seen["bare"]) == len(seen["ours"]) == 20


def test_every_bench_is_there():
    """The program that runs them imports them all and says their names."""
    shown = run("run.py", "--help")
    for name in (
        "enqueue",
        "rabbitmq",
        "identity",
        "clock",
        "entries",
        "latency",
        "many",
        "worker",
        "sweep",
        "recovery",
        "routines",
        "tenants",
    ):
        assert name in shown
