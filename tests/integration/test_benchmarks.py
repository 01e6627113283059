"""The benchmarks reach into the house; here they are run small, so that they follow when it changes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from celery_perpetual.embedded import EmbeddedServer

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(*arguments: str, timeout: float = 60) -> str:
    """Run a program of the benchmarks and return its output."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=BENCHMARKS, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_clocks_bench_still_drives_a_clock():
    """First turn, idle turns and due units of a small clock, with the checks that the bench makes of each."""
    with EmbeddedServer() as server:
        seen = json.loads(run("ticking.py", server.url, "50"))
    assert 0 < seen["start"] <= seen["after"]


@pytest.mark.parametrize(
    "base",
    ["celery", pytest.param("django", marks=pytest.mark.matrix), pytest.param("redbeat", marks=pytest.mark.matrix)],
)
def test_the_bench_of_entries_still_ticks(base):
    """Both sides tick without anything to send, over each base."""
    with EmbeddedServer() as server:
        seen = json.loads(run("entry_ticks.py", base, server.url, "30", "20"))
    assert len(seen["bare"]) == len(seen["ours"]) == 20


def test_the_bench_of_sweeps_still_sweeps():
    """Leases are asked for as workers do, and those of dead workers are taken."""
    seen = run("-c", "import sweep; print(len(sweep.measure(few=1000, many=2000, rounds=1)))")
    assert int(seen) > 5


@pytest.mark.long
def test_the_bench_of_workers_still_counts():
    """Ordinary tasks and items end with just the commands that the bench expects of each way."""
    program = """
from servers import bench_server
import worker_cost
with bench_server() as server:
    print(len(worker_cost.measure(server, tasks=30, rounds=2)))
"""
    assert int(run("-c", program, timeout=110)) > 5


def test_the_table_of_figures_is_written_from_the_results(tmp_path):
    """Each bench keeps its last run; the table stands between its marks, and nothing else of the page changes."""
    page, results, copy = tmp_path / "page.md", tmp_path / "results.json", tmp_path / "figures.json"
    page.write_text("before\n<!-- figures: written by make figures -->\nold\n<!-- end of figures -->\nafter\n")

    run(
        "-c",
        f"""
from pathlib import Path
import figures
from measuring import Row, keep
page, results, copy = (Path(each) for each in {[str(page), str(results), str(copy)]})
where = {{"server": "valkey 9.1", "hiredis": "no", "append-only": "yes"}}
keep(results, "enqueue", where, [Row("enqueue", "of an earlier run", 1, "x")])
keep(results, "clock", {{**where, "append-only": "no"}}, [Row("start", "first turn", 0.0254, "s", 0.1, False)])
keep(results, "enqueue", where, [
    Row("enqueue", "keys", 31.24, "x loop", 28, detail={{"us": 1}}), Row("enqueue", "missed", 27, "x loop", 28),
    Row("create", "routines", 12345.6, "/s"), Row("recovery", "plain", 30, "s", 10, False, text="lost"),
])
figures.main(page, results, copy)
""",
    )

    assert page.read_text().splitlines() == [
        "before",
        "<!-- figures: written by make figures -->",
        "- Seen with server valkey 9.1, hiredis no, append-only yes: `enqueue`.",
        "- Seen with server valkey 9.1, hiredis no, append-only no: `clock`.",
        "",
        "| bench | what | seen | must |",
        "|---|---|---:|---:|",
        "| enqueue | keys | 31.2 x loop | ≥ 28 |",
        "| enqueue | missed | 27 x loop | ≥ 28 (missed) |",
        "| create | routines | 12 346 /s |  |",
        "| recovery | plain | lost | ≤ 10 (missed) |",
        "| start | first turn | 0.0254 s | ≤ 0.1 |",
        "<!-- end of figures -->",
        "after",
    ]
    assert "detail" not in copy.read_text()
    assert json.loads(results.read_text())["enqueue"]["rows"][0]["detail"] == {"us": 1}


def test_the_page_shows_the_figures_that_were_seen():
    """The table of the docs is the one that is made from the results beside it."""
    same = run(
        "-c",
        "import json, figures; "
        "print(figures.shown(figures.PAGE) == figures.table(json.loads(figures.KEPT.read_text(encoding='utf-8'))))",
    )

    assert same.strip() == "True", "make figures writes docs/benchmarks.md and benchmarks/figures.json together"


def test_every_bench_is_there_and_says_where_it_runs():
    """The program that runs them imports them all; its first line names server, persistence and clients."""
    seen = json.loads(
        run("-c", "import json, run, servers; print(json.dumps([list(run.BENCHES), servers.surroundings()]))")
    )

    assert set(seen[0]) == {
        "enqueue", "rabbitmq", "identity", "clock", "entries", "latency", "many", "worker", "sweep", "recovery",
        "routines", "tenants", "most-tenants", "idle", "takeover", "end",
    }  # fmt: skip
    page = (BENCHMARKS.parent / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in seen[0])
    assert {"server", "append-only", "hiredis", "redis-py"} <= seen[1].keys()
    assert seen[1]["append-only"] == "yes"
