"""From the last line of a task's body to its waiter being awake, against ``AsyncResult.get``."""

from __future__ import annotations

import time

from measuring import Row, median, percentile
from workers import Variant, variants

WAYS = {
    "AsyncResult.get": (True, False),
    "AsyncResult.get again": (True, False),
    "perpetual.wait": (False, True),
    "perpetual.wait and backend": (True, True),
}
WARM = 10
#: Seconds that a body takes, in which its waiter begins to wait.
BODY = 0.005


def measure(url: str, *, samples: int) -> list[Row]:
    """Rows of percentiles; every way has a worker with one process, and they take turns."""
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    with variants(url, WAYS, 1) as every:
        for _ in range(WARM):
            for variant in every:
                once(variant)
        for number in range(samples):
            for variant in every[number % len(every) :] + every[: number % len(every)]:
                taken[variant.name].append(once(variant))
    base = taken["AsyncResult.get"]
    rows = [
        Row("latency", f"{name}, {what}", 1000 * percentile(times, share), "ms")
        for name, times in taken.items()
        for what, share in (("p50", 0.5), ("p99", 0.99))
    ]
    rows.append(
        Row(
            "control", "AsyncResult.get against itself, p50", median(taken["AsyncResult.get again"]) / median(base), "x"
        )
    )
    ours = taken["perpetual.wait"]
    rows.append(Row("latency", "perpetual.wait / AsyncResult.get, p50", median(ours) / median(base), "x", 0.42, False))
    both = median(taken["perpetual.wait and backend"]) / median(base)
    rows.append(Row("latency", "perpetual.wait with a backend / AsyncResult.get, p50", both, "x"))
    ratio = percentile(ours, 0.99) / percentile(base, 0.99)
    rows.append(Row("latency", "perpetual.wait / AsyncResult.get, p99", ratio, "x", 0.5, False))
    return rows


def once(variant: Variant) -> float:
    """Seconds from the end of one body to its waiter."""
    sent = variant.send("bench.clock", BODY)
    end = sent.get(timeout=30) if variant.perpetual is None else variant.perpetual.wait(sent.id, 30).result
    late: float = time.monotonic() - end
    return late
