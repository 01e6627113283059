"""The benchmarks reach into the house; here they are run small, so that they follow when it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from celery_perpetual.embedded import EmbeddedServer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str) -> str:
    """Run a program of the benchmarks and return its output."""
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


def test_the_table_of_figures_is_written_from_the_results(tmp_path):
    """Between its marks, and nothing else of the page changes."""
    row = {"bench": "enqueue", "what": "keys", "seen": 31.24, "unit": "x loop", "must": 28, "more_is_better": True,
           "detail": {}, "text": "", "verdict": "ok"}  # fmt: skip
    missed = {**row, "seen": 27.0, "verdict": "MISSED"}
    results = {"surroundings": {"server": "valkey 9.1", "append-only": "yes"}, "rows": [row, missed]}
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- figures: written by make figures -->\nold\n<!-- end of figures -->\nafter\n")

    run("-c", f"import figures, pathlib; figures.write(pathlib.Path({str(page)!r}), {results!r})")

    assert page.read_text().splitlines() == [
        "before",
        "<!-- figures: written by make figures -->",
        "Seen with server valkey 9.1, append-only yes.",
        "",
        "| bench | what | seen | must |",
        "|---|---|---:|---:|",
        "| enqueue | keys | 31.2 x loop | ≥ 28 |",
        "| enqueue | keys | 27 x loop | ≥ 28 (missed) |",
        "<!-- end of figures -->",
        "after",
    ]
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert page.index("<!-- figures: written by make figures -->") < page.index("<!-- end of figures -->")


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
