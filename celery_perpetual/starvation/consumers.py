"""Why what waits in a queue is not started: its queue has no consumer, or its consumers have enough to do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.leases.workers import WorkerState

NO_CONSUMER, SATURATED = "no_consumer", "saturated"


class _Seen(NamedTuple):
    reported_at: int
    started: int | None
    is_busy: bool | None
    """None: one more report is needed to know that."""


class Consumers:
    """The reports of workers, compared from pass to pass. For one thread.

    A worker is busy while it has a message, and if it has begun a task between its last two reports: a worker with
    short tasks may have none at the moment of a report. So of one that has reported once only nothing is known yet.
    """

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._workers: Sequence[WorkerState] = ()

    def read(self, workers: Sequence[WorkerState]) -> None:
        """The newest reports of the living workers."""
        self._seen = {worker.name: self._next(worker) for worker in workers}
        self._workers = workers

    def hosts(self, queue: str) -> list[str]:
        """Host names of the workers that are to consume a queue."""
        return sorted(str(each.info.get("hostname", each.name)) for each in self._of(queue))

    def cause(self, queue: str) -> str:
        """Why what waits there is not started; "" where that is not known yet."""
        found = {self._seen[each.name].is_busy for each in self._of(queue)}
        if True in found:
            return SATURATED
        return "" if None in found else NO_CONSUMER

    def _of(self, queue: str) -> list[WorkerState]:
        return [
            each for each in self._workers if queue in each.info.get("queues", ()) and not each.info.get("stopping")
        ]

    def _next(self, worker: WorkerState) -> _Seen:
        before, started = self._seen.get(worker.name), worker.info.get("started")
        if before is not None and before.reported_at == worker.reported_at:
            return before
        # A worker of an earlier release does not say what it has started: it may be busy.
        if worker.tags or worker.held or worker.info.get("active") or started is None:
            return _Seen(worker.reported_at, started, True)
        return _Seen(worker.reported_at, started, None if before is None else before.started != started)
