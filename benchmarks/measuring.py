"""Ratios of what was measured side by side in one run: rows, medians, servers and the worker that checks them."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import redis

HERE = Path(__file__).parent


@dataclass
class Row:
    """One line of the table."""

    bench: str
    what: str
    seen: float
    unit: str
    must: float | None = None
    more_is_better: bool = True
    detail: dict[str, Any] = field(default_factory=dict)
    text: str = ""
    """The text that the table shows instead of a number that was not reached."""

    @property
    def verdict(self) -> str:
        if self.must is None:
            return ""
        if self.text:
            return "MISSED"
        return "ok" if (self.seen >= self.must if self.more_is_better else self.seen <= self.must) else "MISSED"


def show(rows: Sequence[Row]) -> None:
    """Print the lines of a bench."""
    print(f"{'bench':<12} {'what':<52} {'seen':>10} {'unit':<10} {'must':>10}")
    for row in rows:
        must = "" if row.must is None else f"{'>=' if row.more_is_better else '<='} {row.must:g}"
        seen = row.text or f"{row.seen:.4g}"
        print(f"{row.bench:<12} {row.what:<52} {seen:>10} {row.unit:<10} {must:>10} {row.verdict}", flush=True)


def kept(file: Path) -> dict[str, Any]:
    """The results of the benches that have run, by name, in the order in which they ran first; empty without a file."""
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


def keep(file: Path, name: str, surroundings: dict[str, str], rows: Sequence[Row]) -> None:
    """Write what a bench has found into the file, in the place of its last run; the other benches stay."""
    seen = [{**asdict(row), "verdict": row.verdict} for row in rows]
    results = {**kept(file), name: {"surroundings": surroundings, "rows": seen}}
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def executed(client: redis.Redis) -> dict[str, int]:
    """How often the server has run each command since its statistics were reset, those inside scripts included."""
    return {name.removeprefix("cmdstat_"): one["calls"] for name, one in client.info("commandstats").items()}


def longest_script_ms(client: redis.Redis) -> float:
    """The longest call of a script in the slow log, by the server's own clock."""
    calls = [each["duration"] for each in client.slowlog_get(10_000) if each["command"].upper().startswith(b"EVAL")]
    return max(calls, default=0) / 1000


@contextmanager
def worker(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker for the project; ended by its pid."""
    argv = [sys.executable, "-m", "celery", "-A", "project", "worker", "-P", "solo", "-l", "WARNING",
            "--without-gossip", "--without-mingle", "--without-heartbeat"]  # fmt: skip
    paths = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(argv, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


def wait_for_all(client: redis.Redis, expected: dict[str, int], seconds: float) -> None:
    """Wait until every item that was counted has run.

    Raises:
        AssertionError: some have not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while missing := {name: n for name, n in expected.items() if client.bitcount(f"ran:{name}") != n}:
        assert time.monotonic() < deadline, f"not run: {missing}"
        time.sleep(0.2)
