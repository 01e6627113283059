"""Measure the cost of the sweep to the server per lease of a dead worker, among few and many leases of the living.

The server's clock goes on while it is not scheduled, so what counts is the CPU that the kernel accounts to its threads,
also of each single call; what the server's own clock says is shown too.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery import Celery
from measuring import Row, executed, longest_script_ms, median
from servers import bench_server
from workers import cpu_of

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.leases.execution import Execution
from celery_perpetual.recovery.losses import take_leases
from celery_perpetual.recovery.sweep import AT_ONCE

if TYPE_CHECKING:
    import redis
    from typing_extensions import Self

#: Leases of a worker, and workers that are dead in a round.
EACH, DEAD = 100, 10


def measure(*, few: int, many: int, rounds: int) -> list[Row]:
    """Rows for stores with so many leases, those of the dead included; the two take turns."""
    taken: dict[str, list[float]] = {"many": [], "few": [], "many again": []}
    large: list[Swept] = []
    with ExitStack() as stack:
        stores = {size: stack.enter_context(Leased(size)) for size in (few, many)}
        for store in stores.values():  # its scripts become known, and it is warm
            store.swept()
        ways = [("many", many), ("few", few), ("many again", many)]
        for number in range(rounds):
            for name, size in ways if number % 2 == 0 else reversed(ways):
                swept = stores[size].swept()
                taken[name].append(swept.cpu)
                large += [swept] if size == many else []
    both = [(one + two) / 2 for one, two in zip(taken["many"], taken["many again"], strict=True)]
    ratio = median([one / two for one, two in zip(both, taken["few"], strict=True)])
    again = median([two / one for one, two in zip(taken["many"], taken["many again"], strict=True)])
    calls, clock = [each.longest_cpu for each in large], [each.longest_clock for each in large]
    dead, detail = EACH * DEAD, {"us_per_lease": taken}
    return [
        Row("sweep", f"{dead} expired of {many} leases, server's CPU", median(both), "us/lease", 20, False, detail),
        Row("sweep", f"{dead} expired of {few} leases, server's CPU", median(taken["few"]), "us/lease"),
        Row(
            "sweep",
            f"{dead} expired of {many} leases, server's clock",
            median([each.clock for each in large]),
            "us/lease",
        ),
        Row("sweep", f"{many} leases against {few}", ratio, "x"),
        Row("control", f"sweep of {many} leases against itself", again, "x"),
        Row("sweep", "longest script call, server's CPU", max(calls), "ms", 5, False, {"of each sweep": calls}),
        Row("sweep", "longest script call, server's clock", max(clock), "ms", None, False, {"of each sweep": clock}),
        Row("sweep", "the same, least disturbed sweep", min(clock), "ms"),
    ]


@dataclass
class Swept:
    """The cost of one sweep to the server."""

    cpu: float
    """Microseconds of CPU per lease."""
    clock: float
    """Microseconds per lease by its own clock."""
    longest_cpu: float
    """Milliseconds of CPU of the longest call."""
    longest_clock: float
    """The same by its own clock."""


class Gathered:
    """The questions of a worker's process, gathered in a pipeline."""

    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    def call(self, packed: bytes, *, yielding: bool) -> None:
        assert not yielding
        lines = packed.split(b"\r\n")
        self._pipe.execute_command(*lines[2::2])

    def close(self) -> None:
        """The connection is the client's."""


class Leased:
    """A server on which workers hold so many leases, for which they asked as workers do."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._started = 0

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._server = stack.enter_context(bench_server())
            app = Celery("sweep", broker=self._server.url, set_as_current=False)
            # No worker reports here: the living ones live for longer than the bench runs.
            app.conf.perpetual_lease_ttl = 86_400

            def work() -> None:
                return None

            options: dict[str, Any] = {"poll_every": 3600, "next_batch": list, "shared": False}
            self._task = app.task(base=PerpetualTask, name="sweep.work", **options)(work)
            self._leases: Any = Perpetual(app).grants
            app.finalize()
            self._client: redis.Redis = self._leases.store.redis
            stack.callback(self._leases.store.close)
            self._client.script_load(self._leases._asking.other.text)  # noqa: SLF001
            self._client.config_set("slowlog-log-slower-than", 100)
            self._client.config_set("slowlog-max-len", 10_000)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _fill(self) -> list[str]:
        """Start workers until there are so many leases again; returns their names, the newest last."""
        store, names = self._leases.store, []
        pipe = self._client.pipeline(transaction=False)
        ask, wire = self._leases._start, store.wire  # noqa: SLF001
        try:
            store.wire = Gathered(pipe)
            for _ in range((self._size - self._client.hlen(store.keys.leases)) // EACH):
                names.append(f"worker-{self._started}@host#{self._started:08x}")
                self._started += 1
                self._leases.instance = SimpleNamespace(name=names[-1])
                for _ in range(EACH):
                    task_id, nonce, tag = (str(uuid4()) for _ in range(3))
                    copy = f'{{"id": "{task_id}", "body": "{"x" * 500}"}}'
                    ask(self._task, Execution(task_id=task_id, nonce=nonce, tag=tag, copy=copy), {})
                assert all(verdict == b"run" for verdict, _, _ in pipe.execute())
        finally:
            store.wire = wire
        assert self._client.hlen(store.keys.leases) == self._size
        return names

    def swept(self) -> Swept:
        """Let workers die and sweep their leases, as the leader does."""
        client, keys = self._client, self._leases.store.keys
        client.zadd(keys.workers, dict.fromkeys(self._fill()[-DEAD:], 1), xx=True)
        client.config_resetstat()
        client.slowlog_reset()
        workers, taken, taking, calls = 0, 0, 0, []
        worker = "first"
        while worker:
            before = cpu_of(self._server.pid)
            _, worker, leases, empty, _ = take_leases(self._leases, AT_ONCE)
            calls.append(cpu_of(self._server.pid) - before)
            taken += leases
            taking += leases > 0
            workers += empty and self._leases.workers.forget(worker)
        stats, done = client.info("commandstats"), executed(client)
        assert (workers, taken) == (DEAD, EACH * DEAD)
        # Each call: leases taken from their worker and from all, put on the list. Each lease: told.
        # Each worker: forgotten.
        assert done["hdel"] == done["srem"] == done["zadd"] == taking, done
        assert done["xadd"] == taken, done
        assert done["zrem"] == DEAD, done
        scripts = [one for name, one in stats.items() if name in {"cmdstat_eval", "cmdstat_evalsha"}]
        lost = client.zrange(keys.resend, 0, -1)
        assert len(lost) == taken
        # They have been sent again and have ended.
        client.delete(keys.resend)
        client.hdel(keys.states, *lost)
        client.hdel(keys.copies, *lost)
        usec = sum(one["usec"] for one in scripts)
        return Swept(1e6 * sum(calls) / taken, usec / taken, 1000 * max(calls), longest_script_ms(client))
