"""One run of one worker, whether it knows itself to be alive, and what is stored of all of them."""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from multiprocessing import get_context
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from celery_perpetual.broker.queue_sizes import UNKNOWN
from celery_perpetual.completions.waiting_ends import SharedEnds
from celery_perpetual.leases.time_limits import KeptLimits
from celery_perpetual.store.commands.workers import WorkerReport, living_workers, reported_tags
from celery_perpetual.store.scripts import script
from celery_perpetual.times import steady

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store


def app_name(app: Celery) -> str:
    """The name that distinguishes the processes of an app from those of another one on the same prefix."""
    return app.main or "__main__"


class WorkerRun:
    """One run of a worker. Made in its main process before the pool, so that pool children share it."""

    def __init__(self, hostname: str, ttl: float) -> None:
        self.hostname = hostname.replace("|", "_").replace("#", "_")
        self.name = f"{self.hostname}#{token_hex(4)}"
        """A restarted worker is another one, also under the same hostname."""
        self.pid = os.getpid()
        self._ttl = ttl
        self.is_deaf = False
        """Whether it hears no command while it runs a task, as it runs it in its only thread."""
        self.kept_limits = KeptLimits()
        """Which time limits its pool keeps."""
        self.ends = SharedEnds()
        """The ends that wait in its processes."""
        # Shared with children by fork. Seconds of the steady clock.
        shared = get_context("fork").Value
        self._until = shared("d", 0.0, lock=False)
        self._doubted = shared("d", 0.0, lock=False)

    def renewed(self, asked_at: float) -> None:
        """The store has renewed the deadline, when asked at this time of the steady clock."""
        self._until.value = asked_at + self._ttl

    def doubt(self) -> None:
        """A lease that was granted before now may have been taken away, by an operator or by an ended outage.

        An execution that holds one of those has to ask. Short tasks make this common: the lease may have ended with
        the task while Celery still works on it.
        """
        self._doubted.value = steady()

    def surely_holds(self, granted_at: float) -> bool:
        """Whether a lease is surely still its own. Never asks the store.

        Args:
            granted_at: when it was asked for, by the steady clock.
        """
        is_doubted = self.is_deaf or granted_at <= float(self._doubted.value)
        return not is_doubted and steady() < float(self._until.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerState:
    """The last report of one living worker."""

    name: str
    """Its instance: a restarted worker is another one."""
    deadline: int
    """When it counts as dead, unless it reports before: ms of the store's time."""
    reported_at: int
    """When it last reported: ms of the store's time; 0 = not yet."""
    tags: dict[str, str]
    """Delivery tag -> task id of what it has received and not acknowledged."""
    held: int
    """Leases that it holds."""
    info: dict[str, Any]

    def consumes(self, place: str, known: Collection[str]) -> bool:
        """Whether it says that it consumes what waits there.

        Args:
            place: see :func:`place_of`.
            known: see :func:`queues_with_known_bindings`; a worker with others may consume any place that is unknown.
        """
        queues = set(self.info.get("queues", ()))
        may = place in queues or (place.startswith(UNKNOWN) and not queues.issubset(known))
        return may and not self.info.get("stopping")

    @classmethod
    def read(cls, report: WorkerReport) -> WorkerState:
        """From what the store has."""
        return cls(
            name=report.name,
            deadline=report.deadline,
            reported_at=int(report.said.get(b"at", 0)),
            tags=report.tags,
            held=report.held,
            info=json.loads(report.said.get(b"info", b"{}")),
        )


class Workers:
    """The stored reports of workers."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def all(self, dead_for: int = 0) -> list[WorkerState]:
        """The last reports of workers whose deadline has not passed, or has passed less than so many ms ago.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return [WorkerState.read(report) for report in living_workers(self._store, dead_for)]

    def tags_of(self, worker: str) -> set[str]:
        """Delivery tags that a worker has reported."""
        return reported_tags(self._store, worker)

    def forget(self, worker: str, *, stopped: bool = False) -> bool:
        """Forget a worker that holds nothing any more."""
        keys = self._store.keys
        return bool(
            script("forget_worker")(
                self._store, held=keys.held(worker), worker_info=keys.worker(worker), tags=keys.tags(worker),
                worker=worker, stopped=int(stopped),
            )
        )  # fmt: skip
