"""One waiter and many ids, while a worker ends them and when all have ended, against ``ResultSet`` and polling."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis
from celery.result import ResultSet
from measuring import Row, executed, median
from workers import Variant, run_out, variants


@dataclass
class Taken:
    """One round of one way."""

    cpu: float
    """Seconds of the waiter's CPU while a worker ended them."""
    lag: float
    """Seconds from the last end to the end of the wait."""
    after: float
    """Seconds of a wait for ids that have all ended."""


def join(variant: Variant, sent: list[Any]) -> int:
    return len(ResultSet(sent, app=variant.app).join(timeout=600))


def native(variant: Variant, sent: list[Any]) -> int:
    return len(ResultSet(sent, app=variant.app).join_native(timeout=600))


def poll(variant: Variant, sent: list[Any]) -> int:
    left = {each.id for each in sent}
    while left:
        left = {each for each in left if not variant.app.AsyncResult(each).ready()}
        time.sleep(0.1)
    return len(sent)


def completed(variant: Variant, sent: list[Any]) -> int:
    assert variant.perpetual is not None
    return sum(each.ok for each in variant.perpetual.as_completed([each.id for each in sent], 600))


WAYS: dict[str, tuple[str, Callable[[Variant, list[Any]], int]]] = {
    "ResultSet.join": ("backend", join),
    "ResultSet.join_native": ("backend", native),
    "poll ready() every 0.1 s": ("backend", poll),
    "as_completed": ("completions", completed),
    "ResultSet.join again": ("backend", join),
}


def measure(url: str, *, number: int, rounds: int) -> list[Row]:
    """Rows for so many ids; the ways take turns."""
    client: redis.Redis = redis.Redis.from_url(url)
    taken: dict[str, list[Taken]] = {name: [] for name in WAYS}
    with variants(url, {"backend": (True, False), "completions": (False, True)}, 2) as both:
        by_name = {variant.name: variant for variant in both}
        for variant in both:
            variant.send("bench.nothing")
            run_out(client, variant.queue)
        for _ in range(rounds):
            for name, (kind, way) in WAYS.items():
                taken[name].append(once(client, by_name[kind], way, number))
    client.close()
    return rows(taken, number)


def once(client: redis.Redis, variant: Variant, way: Callable[[Variant, list[Any]], int], number: int) -> Taken:
    """Wait twice for the same ids: while they end, and afterwards."""
    variant.stop()
    sent = [variant.send("bench.clock", 0) for _ in range(number)]
    client.config_resetstat()
    variant.go_on()
    begun = time.process_time()
    assert way(variant, sent) == number
    over = time.monotonic()
    time.sleep(0.5)  # what is left to unsubscribe counts too
    cpu = time.process_time() - begun
    lag = over - last_end(variant, sent)
    done = executed(client)
    run_out(client, variant.queue)
    # One record per end, and a lock of kombu's now and then.
    stored = executed(client)
    assert 0 <= stored["set" if variant.perpetual else "setex"] - number < 20, stored
    if variant.perpetual is not None:
        assert done["subscribe"] <= number // 500 + 3, done
        assert done.get("get", 0) <= number + 100, done  # the script's own; the waiter reads many at a time
    fresh = [type(each)(each.id, app=variant.app) for each in sent]  # results remember what they know
    begun = time.monotonic()
    assert way(variant, fresh) == number
    after = time.monotonic() - begun
    for key in client.scan_iter("celery-task-meta-*", count=1000):
        client.unlink(key)
    return Taken(cpu, lag, after)


def last_end(variant: Variant, sent: list[Any]) -> float:
    """When the last body of them ended; the ends are in order but for the pool's two processes."""
    if variant.perpetual is None:
        return max(variant.app.AsyncResult(each.id).result for each in sent[-50:])
    return max(variant.perpetual.completion(each.id).result for each in sent[-50:])


def rows(taken: dict[str, list[Taken]], number: int) -> list[Row]:
    """Medians, and medians of the ratios within each round."""
    found = []
    for name, rounds in taken.items():
        cpu, after = median([each.cpu for each in rounds]), median([each.after for each in rounds])
        found.append(Row("many", f"{name}: CPU while {number} end", 1e6 * cpu / number, "us/id"))
        found.append(Row("many", f"{name}: lag behind the last end", 1e3 * median([each.lag for each in rounds]), "ms"))
        found.append(Row("many", f"{name}: {number} that have ended", 1e6 * after / number, "us/id"))
    ours = taken["as_completed"]

    def ratio(name: str, figure: str) -> float:
        pairs = zip(taken[name], ours, strict=True)
        return median([getattr(theirs, figure) / getattr(mine, figure) for theirs, mine in pairs])

    for name in WAYS:
        if name != "as_completed" and not name.endswith("again"):
            found.append(Row("many", f"{name} / as_completed, CPU", ratio(name, "cpu"), "x", 5))
            found.append(Row("many", f"{name} / as_completed, ended before", ratio(name, "after"), "x", 5))
    pairs = list(zip(taken["ResultSet.join again"], taken["ResultSet.join"], strict=True))
    for figure, what in (("cpu", "CPU"), ("after", "ended before")):
        control = median([getattr(b, figure) / getattr(a, figure) for b, a in pairs])
        found.append(Row("control", f"ResultSet.join against itself, {what}", control, "x"))
    return found
