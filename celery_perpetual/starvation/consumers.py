"""Why what waits in a queue is not started: its queue has no consumer, or its consumers have enough to do.

A worker is busy while it has a message, and if it has begun a task since the report before its last one: a worker with
short tasks may have none at the moment of a report. Each worker says itself how many it has begun, so any process knows
the cause from the store alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from celery_perpetual.broker.queue_sizes import UNKNOWN

if TYPE_CHECKING:
    from celery_perpetual.leases.workers import WorkerState

NO_CONSUMER, SATURATED = "no_consumer", "saturated"


class Consumers:
    """The workers that live, as they say."""

    def __init__(self, workers: Sequence[WorkerState] = (), known: Collection[str] = ()) -> None:
        """As they say.

        Args:
            workers: that live.
            known: see :func:`queues_with_known_bindings`.
        """
        self._workers = workers
        self._known = known

    def hosts(self, queue: str) -> list[str]:
        """Host names of the workers that are to consume a queue."""
        return sorted(str(each.info.get("hostname", each.name)) for each in self._of(queue))

    def cause(self, queue: str) -> str:
        """Why what waits there is not started; "" where that is not known yet."""
        found = {_is_busy(each) for each in self._of(queue)}
        if True in found:
            return SATURATED
        return "" if None in found else NO_CONSUMER

    def may_have(self, queue: str) -> bool:
        """Whether a worker may consume what waits there though none says so: in a queue that the app does not know."""
        return queue.startswith(UNKNOWN) and bool(self._workers)

    def _of(self, queue: str) -> list[WorkerState]:
        return [each for each in self._workers if each.consumes(queue, self._known)]


def _is_busy(worker: WorkerState) -> bool | None:
    """None: one more report is needed to know that."""
    # A worker of another release does not say what it has begun: it may be busy.
    if worker.tags or worker.held or worker.info.get("active") or "begun" not in worker.info:
        return True
    begun = worker.info["begun"]
    return None if begun is None else begun > 0
