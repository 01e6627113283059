"""From rows to completions: two workers run the items of polls, and beside them as many tasks of plain Celery.

The plain tasks wait in their queue before their workers begin, so their time is that of the workers alone. The items
are polled, ten thousand at a time, while their workers run.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import redis
from measuring import Row, executed, median
from workers import Variant, pending, run_out, variants

if TYPE_CHECKING:
    from celery_perpetual.embedded import EmbeddedServer

#: The flags of :func:`workers.variants`.
WAYS = {"plain": (False, False, False, False), "items": (False, True, False, True), "plain again": (False,) * 4}
WARM = 200
AT_ONCE = 10_000


def measure(server: EmbeddedServer, *, items: int, rounds: int) -> list[Row]:
    """Rows for so many items; the ways take turns."""
    client: redis.Redis = redis.Redis.from_url(server.url)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    polled: list[float] = []
    with variants(server.url, WAYS, 1, workers=2) as every:
        for variant in every:
            variant.enqueue(WARM)
            run_out(client, variant.queue)
            variant.stop()
        for _ in range(rounds):
            for variant in every:
                if variant.items:
                    seconds, polling = of_polls(client, variant, items)
                    polled.append(polling / seconds)
                else:
                    seconds = of_workers(client, variant, items)
                taken[variant.name].append(seconds)
        for variant in every:
            variant.go_on()
    client.close()
    plain = [(one + two) / 2 for one, two in zip(taken["plain"], taken["plain again"], strict=True)]
    ratio = median([theirs / ours for theirs, ours in zip(plain, taken["items"], strict=True)])
    control = median([two / one for one, two in zip(taken["plain"], taken["plain again"], strict=True)])
    return [
        Row("end to end", f"plain Celery, {items} tasks that wait, 2 workers", items / median(plain), "tasks/s"),
        Row("end to end", f"{items} items, from rows to completions", items / median(taken["items"]), "items/s"),
        Row("end to end", "items / plain tasks, per second", ratio, "x", 0.9),
        Row("end to end", "share of that time in which polls are open", median(polled), "x", 0.5, False),
        Row("control", "plain workers against themselves", control, "x"),
    ]


def of_workers(client: redis.Redis, variant: Variant, tasks: int) -> float:
    """Seconds in which the workers run tasks that wait for them."""
    variant.enqueue(tasks)
    begun = time.perf_counter()
    variant.go_on()
    return _until_done(client, variant, begun)


def of_polls(client: redis.Redis, variant: Variant, items: int) -> tuple[float, float]:
    """Seconds from the first row to the last completion, and how many of them polls took."""
    client.config_resetstat()
    begun = time.perf_counter()
    variant.go_on()
    for start in range(0, items, AT_ONCE):
        variant.enqueue(min(AT_ONCE, items - start))
    polling = time.perf_counter() - begun
    seconds = _until_done(client, variant, begun)
    ends: Any = executed(client)
    # Each end is an event on the stream, and so are the ends of the polls.
    assert ends["xadd"] >= items, ends
    return seconds, polling


def _until_done(client: redis.Redis, variant: Variant, begun: float) -> float:
    while pending(client, variant.queue):
        time.sleep(0.02)
    seconds = time.perf_counter() - begun
    time.sleep(0.2)
    variant.stop()
    return seconds
