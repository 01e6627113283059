"""The clock with few and many units: first turn, idle turns, turns with something due; RedBeat beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import redis
from measuring import HERE, Row, executed, median
from peers import Peer
from servers import bench_server
from ticking import Ticking, idle_in_turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from typing_extensions import Self

IDLE_ROUNDS, IDLE_TURNS = 9, 60
DUE_ROUNDS = 3


def measure(*, sizes: tuple[int, int]) -> list[Row]:
    """Rows for few and many units, and for as many entries of RedBeat; what is compared is taken in turns."""
    few, many = sizes
    with ExitStack() as stack:
        clocks = {size: stack.enter_context(Ticking(stack.enter_context(bench_server()).url, size)) for size in sizes}
        rows = [
            Row("start", f"first turn, {size} units", ticking.first(), "s", 0.1, False)
            for size, ticking in clocks.items()
        ]
        stored = {size: ticking.bytes_per_unit() for size, ticking in clocks.items()}
        rows += [Row("memory", f"store, {size} units, per unit", taken, "B") for size, taken in stored.items()]
        idle: dict[str, list[float]] = {str(size): [] for size in sizes} | {"again": []}
        redbeat = stack.enter_context(RedBeat()) if Peer.installed() else None
        if redbeat is not None:
            per_entry = redbeat.fill(many)
            rows.append(Row("memory", f"store, RedBeat, {many} entries, per entry", per_entry, "B"))
            rows.append(
                Row("memory", "store, per unit / per entry of RedBeat", stored[many] / per_entry, "x", 0.6, False)
            )
            idle["redbeat"] = []
        for _ in range(IDLE_ROUNDS):
            by_name = {str(size): ticking for size, ticking in clocks.items()}
            for name, seconds in idle_in_turns(by_name, IDLE_TURNS).items():
                idle[name].append(seconds)
            if redbeat is not None:
                idle["redbeat"].append(redbeat.idle(IDLE_TURNS))
            idle["again"].append(idle_in_turns(by_name, IDLE_TURNS)[str(many)])
        rows += [Row("tick idle", f"{size} units", median(idle[str(size)]) * 1e6, "us") for size in sizes]
        rows.append(Row("tick idle", f"{many} units / {few}", _ratio(idle, str(many), str(few)), "x", 1.5, False))
        if redbeat is not None:
            rows.append(Row("tick idle", f"RedBeat, {many} entries", median(idle["redbeat"]) * 1e6, "us"))
            ratio = _ratio(idle, str(many), "redbeat")
            rows.append(Row("tick idle", f"{many} units / RedBeat's entries", ratio, "x", 1, False))
        rows.append(
            Row("control", f"idle turns, {many} units, against themselves", _ratio(idle, "again", str(many)), "x")
        )
        rows += due(clocks[many], redbeat, many // 100)
    return rows + memory_of_processes(sizes)


def due(ticking: Ticking, redbeat: RedBeat | None, count: int) -> list[Row]:
    """One per cent is due, in two ways: as units with a poll each, and as rows of one unit that brings them."""
    taken: dict[str, list[float]] = {"units": [], "rows": [], "redbeat": []}
    for _ in range(DUE_ROUNDS):
        taken["units"].append(ticking.due(count))
        taken["rows"].append(ticking.rows(count))
        if redbeat is not None:
            taken["redbeat"].append(redbeat.due(count))
    rows = [
        Row("tick due", f"{count} units, claim and an empty poll each", median(taken["units"]) * 1e6, "us/unit"),
        Row("tick due", f"{count} rows, one poll that enqueues them", median(taken["rows"]) * 1e6, "us/row"),
    ]
    if redbeat is not None:
        rows += [
            Row("tick due", f"RedBeat, {count} entries, a message each", median(taken["redbeat"]) * 1e6, "us/entry"),
            Row("tick due", "RedBeat's entry / row", _ratio(taken, "redbeat", "rows"), "x", 10),
            Row("tick due", "RedBeat's entry / unit", _ratio(taken, "redbeat", "units"), "x", 10),
        ]
    return rows


def _ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios within each round."""
    return median([a / b for a, b in zip(times[over], times[under], strict=True)])


def memory_of_processes(sizes: Sequence[int]) -> list[Row]:
    """RSS of processes of their own: what the clock adds to its app and to the list of units that it is given."""
    seen = {}
    for size in sizes:
        with bench_server() as server:
            argv = [sys.executable, str(HERE / "ticking.py"), server.url, str(size)]
            seen[size] = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    few, many = sizes
    added = {size: (each["after"] - each["units"]) / 1e6 for size, each in seen.items()}
    detail = {"bytes": seen}
    rows = [Row("memory", f"RSS that the clock adds, {size} units", added[size], "MB") for size in sizes]
    total = (seen[many]["start"] + 1e6 * added[many]) / (seen[few]["start"] + 1e6 * added[few])
    return [*rows, Row("memory", f"RSS without the units' own, {many} / {few}", total, "x", 1.1, False, detail)]


class RedBeat:
    """Its scheduler in a process of its own, on a server of its own."""

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        server = self._stack.enter_context(bench_server())
        self._peer = self._stack.enter_context(Peer("peer_redbeat.py", server.url))
        self._client: redis.Redis = redis.Redis.from_url(server.url)
        self._used = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def fill(self, count: int) -> float:
        """Make entries; bytes per entry."""
        taken: float = self._peer("fill", count)
        assert self._client.zcard("redbeat::schedule") == count
        self._peer("make_due", 0, 10)  # opens its connection to the broker
        self._peer("due")
        self._used = 10
        return taken

    def idle(self, turns: int) -> float:
        """Seconds of a tick with nothing due."""
        self._client.config_resetstat()
        seconds: float = self._peer("idle", turns)
        done = executed(self._client)
        assert done["zrangebyscore"] == 2 * turns, done
        assert not {"zadd", "lpush", "hget"} & done.keys(), done
        return seconds

    def due(self, count: int) -> float:
        """Seconds per due entry, with a message each."""
        self._peer("make_due", self._used, count)
        self._used += count
        self._client.config_resetstat()
        seconds: float = self._peer("due")
        done = executed(self._client)
        assert done["lpush"] == done["zadd"] == count, done
        return seconds / count
