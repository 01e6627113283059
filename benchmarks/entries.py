"""Ticks of beat with many entries of the base scheduler and nothing due: ours against the bare base."""

from __future__ import annotations

import json
import subprocess
import sys
from statistics import mean

from entry_ticks import BASES
from measuring import HERE, Row
from servers import bench_server

#: A bare tick compares all entries, or asks the database; ours does neither at every tick. RedBeat's asks Redis, as
#: ours over it does.
MOST = {"celery": 0.2, "django": 0.2, "redbeat": 1.2}


def measure(*, entries: int, ticks: int) -> list[Row]:
    """Three rows for each base."""
    rows = []
    for base in BASES:
        with bench_server() as server:
            argv = [sys.executable, str(HERE / "entry_ticks.py"), base, server.url, str(entries), str(ticks)]
            seen = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
        bare, ours = mean(seen["bare"]), mean(seen["ours"])
        detail = {"slowest_us": {name: max(each) * 1e6 for name, each in seen.items()}}
        rows += [
            Row("entries", f"{base}: bare, {entries} entries", bare * 1e6, "us/tick"),
            Row("entries", f"{base}: ours over it", ours * 1e6, "us/tick"),
            Row("entries", f"{base}: ours / bare", ours / bare, "x", MOST[base], False, detail),
        ]
    return rows
