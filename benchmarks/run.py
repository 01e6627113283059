"""Runs the benchmarks: ``make bench``, ``make bench-quick``, or ``python benchmarks/run.py [--quick] [name …]``.

Every figure that says "x" is a ratio of things measured in turns within this run; absolute times are the machine's.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parents[1]))

import clock
import end_to_end
import enqueue
import entries
import identity
import latency
import many
import recovery
import routines
import sweep
import takeover
import tenants
import worker_cost
from measuring import HERE, Row, keep, show
from servers import APPEND_ONLY, bench_server, surroundings

from tests.support.rabbitmq import run_folder, server_binary, shared_node

if TYPE_CHECKING:
    from collections.abc import Callable

ITEMS, ROUNDS = 10_000, 5


def on_redis(*, quick: bool) -> list[Row]:
    """Broker and store are one server."""
    with bench_server() as server, tempfile.TemporaryDirectory() as folder:
        return enqueue.measure(server.url, server.url, Path(folder), items=ITEMS, rounds=3 if quick else ROUNDS)


def on_rabbitmq(*, quick: bool) -> list[Row]:
    """A private RabbitMQ node, confirms on, in the loop too."""
    binary = server_binary()
    if binary is None:
        print("rabbitmq-server is not installed: its rows are left out")
        return []
    # The node's guard removes the folder with the node.
    folder = Path(tempfile.mkdtemp(prefix="perpetual-bench-"))
    with ExitStack() as stack:
        store = stack.enter_context(bench_server())
        place = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(run_folder(folder))
        url = stack.enter_context(shared_node(folder, binary).vhost())
        return enqueue.measure(url, store.url, Path(place), items=2000, rounds=3 if quick else ROUNDS)


def to_the_byte(**_: bool) -> list[Row]:
    """The same at any speed."""
    return identity.measure()


def ticking(*, quick: bool) -> list[Row]:
    """Few units and many."""
    return clock.measure(sizes=(1_000, 10_000) if quick else (1_000, 100_000))


def a_million_jobs(*, quick: bool) -> list[Row]:
    """Few routines and many."""
    return routines.measure(
        sizes=(1_000, 20_000) if quick else (1_000, 1_000_000), due=300 if quick else 500, seconds=5 if quick else 20
    )


def entry_ticks(*, quick: bool) -> list[Row]:
    """Each base scheduler."""
    return entries.measure(entries=10_000, ticks=100 if quick else 1000)


def awake(*, quick: bool) -> list[Row]:
    """One waiter, one id."""
    with bench_server() as server:
        return latency.measure(server.url, samples=100 if quick else 1000)


def waiting_for_many(*, quick: bool) -> list[Row]:
    """One waiter, all ids."""
    with bench_server() as server:
        return many.measure(server.url, number=2000 if quick else 10_000, rounds=1 if quick else 2)


def cost(*, quick: bool) -> list[Row]:
    """Tasks that do nothing."""
    with bench_server() as server:
        return worker_cost.measure(server, tasks=500 if quick else 1000, rounds=5 if quick else 15)


def sweeping(*, quick: bool) -> list[Row]:
    """The leases of ten dead workers."""
    return sweep.measure(few=1000, many=20_000 if quick else 100_000, rounds=3 if quick else 9)


def recovering(*, quick: bool) -> list[Row]:
    """Processes that die; nearly all of its time is waiting for what does not come back."""
    return recovery.measure(rounds=1 if quick else 3)


def many_tenants(*, quick: bool) -> list[Row]:
    """A real beat; most of its time is waiting for slots."""
    tenants_and_every = (2_000, 10.0) if quick else (10_000, 30.0)
    return [*tenants.lateness(*tenants_and_every, 1 if quick else 2), *tenants.refilling(50 if quick else 200)]


def most_tenants(*, quick: bool) -> list[Row]:
    """As many as one core serves, five times as seldom."""
    return tenants.lateness(*((5_000, 25.0) if quick else (50_000, 150.0)), 1)


def idling(*, quick: bool) -> list[Row]:
    """A real beat that finds nothing to do."""
    return tenants.idle_cost(1_000, 30.0, 1 if quick else 3)


def taking_over(*, quick: bool) -> list[Row]:
    """Two beats, one of which goes."""
    return takeover.measure(rounds=1 if quick else 3)


def rows_to_completions(*, quick: bool) -> list[Row]:
    """Two workers, all that this package does for an item."""
    with bench_server() as server:
        return end_to_end.measure(server, items=4_000 if quick else 30_000, rounds=1)


BENCHES: dict[str, Callable[..., list[Row]]] = {
    "enqueue": on_redis,
    "rabbitmq": on_rabbitmq,
    "identity": to_the_byte,
    "clock": ticking,
    "entries": entry_ticks,
    "latency": awake,
    "many": waiting_for_many,
    "worker": cost,
    "sweep": sweeping,
    "recovery": recovering,
    "routines": a_million_jobs,
    "tenants": many_tenants,
    "most-tenants": most_tenants,
    "idle": idling,
    "takeover": taking_over,
    "end": rows_to_completions,
}


def main() -> int:
    """Run what was named, or everything; 1 if something was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], help="benches to run; default all")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, smaller numbers")
    parser.add_argument(
        "--no-append-only", action="store_true", help="stores that write nothing to disk; default is append-only"
    )
    options = parser.parse_args()
    if options.no_append_only:
        os.environ[APPEND_ONLY] = "no"
    where = {**surroundings(), "run": "quick" if options.quick else "full"}
    print(", ".join(f"{name} {value}" for name, value in where.items()))
    is_missed = False
    for name in options.names or BENCHES:
        print(f"\n{name} …", flush=True)
        rows = BENCHES[name](quick=options.quick)
        show(rows)
        keep(HERE / "results.json", name, where, rows)
        is_missed |= any(row.verdict == "MISSED" for row in rows)
    return int(is_missed)


if __name__ == "__main__":
    sys.exit(main())
