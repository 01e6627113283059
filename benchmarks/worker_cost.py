"""CPU per trivial task, of the worker, its children and Redis together: plain, with results, with completions,
and with a lease for every task, which is asked for at its start and given back at its end.

Wall-clock hides what happens in the children, and the CPU that a task takes depends on what else the machine does at
that moment. So CPU is the kernel's account of each thread that ran, rounds are short and many, their order rotates,
and each is compared with the plain workers of the same round only.
"""

from __future__ import annotations

import statistics

import redis
from measuring import Row, executed, median
from workers import Variant, cpu_of, run_out, variants

from celery_perpetual.embedded import EmbeddedServer

WAYS = {
    "plain": (False, False, False, False),
    "result backend": (True, False, False, False),
    "completions": (False, True, False, False),
    "leases": (False, True, True, False),
    "items": (False, True, True, True),
    "both": (True, True, False, False),
    "plain again": (False, False, False, False),
}
WARM = 300


def measure(server: EmbeddedServer, *, tasks: int, rounds: int) -> list[Row]:
    """Rows of added CPU per task."""
    client: redis.Redis = redis.Redis.from_url(server.url)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    with variants(server.url, WAYS, 2) as every:
        for variant in every:  # workers that measure nothing stand still
            run(client, variant, WARM)
            variant.stop()
        for number in range(rounds):
            for variant in every[number % len(every) :] + every[: number % len(every)]:
                taken[variant.name].append(once(client, server.pid, variant, tasks))
        for variant in every:
            variant.go_on()
    client.close()
    return rows(taken)


def run(client: redis.Redis, variant: Variant, tasks: int) -> None:
    variant.go_on()
    variant.enqueue(tasks)
    run_out(client, variant.queue)


def once(client: redis.Redis, server: int, variant: Variant, tasks: int) -> float:
    """Seconds of CPU per task."""
    variant.enqueue(tasks)
    client.config_resetstat()
    cpu = variant.cpu() + cpu_of(server)
    variant.go_on()
    run_out(client, variant.queue)
    cpu = variant.cpu() + cpu_of(server) - cpu
    variant.stop()
    done, (backend, completions, leases, items) = executed(client), WAYS[variant.name]
    assert done.get("setex", 0) == tasks * backend, done
    # Kombu sets a lock of its own now and then, and a worker that holds leases reports what it has received.
    assert 0 <= done.get("set", 0) - tasks * completions < 20 + tasks * leases, done
    # Every grant has a number; who has it is written down, that the task has ended, and which delivery ended it.
    assert done.get("incr", 0) == tasks * leases, done
    # The ledger says of its own items that they have ended. Kombu writes down a binding now and then.
    assert 0 <= done.get("sadd", 0) - (1 if items else 3) * tasks * leases < 20, done
    assert done.get("xadd", 0) == tasks * completions, done
    assert done.get("publish", 0) == tasks * (backend + 2 * completions) + items, done  # their batch ends too
    return cpu / tasks


def rows(taken: dict[str, list[float]]) -> list[Row]:
    """Medians over the rounds of what a way adds to the plain workers of its round."""
    plain = [(a + b) / 2 for a, b in zip(taken["plain"], taken["plain again"], strict=True)]
    added = {name: [a - b for a, b in zip(times, plain, strict=True)] for name, times in taken.items()}
    found = [Row("worker cost", "plain", 1e6 * median(plain), "us/task")]
    adds = {
        "result backend": "a result backend adds",
        "completions": "completions add",
        "leases": "completions and leases (start, finish) add",
        "items": "the same for items of a poll (late-acked, with item keys) add",
        "both": "result backend and completions add",
    }
    found += [_row("worker cost", text, added[name]) for name, text in adds.items()]
    again = [b - a for a, b in zip(taken["plain"], taken["plain again"], strict=True)]
    found.append(_row("control", "plain worker against itself", again))
    ratio = median(added["completions"]) / median(added["result backend"])
    found.append(Row("worker cost", "completions add / result backend adds", ratio, "x", 1, False))
    for name, text, must in (("leases", "completions and leases add", 1), ("items", "items of a poll add", 0.7)):
        ratio = median(added[name]) / median(added["result backend"])
        found.append(Row("worker cost", f"{text} / result backend adds", ratio, "x", must, False))
    return found


def _row(bench: str, what: str, values: list[float]) -> Row:
    """The median, with how far to trust it."""
    return Row(bench, f"{what}, +- {1e6 * error(values):.0f} (standard error)", 1e6 * median(values), "us/task")


def error(values: list[float]) -> float:
    """Standard error of the median, from the spread between the quartiles."""
    low, _, high = statistics.quantiles(values, n=4)
    return 1.253 * (high - low) / 1.349 / len(values) ** 0.5
