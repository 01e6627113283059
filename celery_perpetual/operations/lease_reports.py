"""Executed and parked tasks, and workers, as an operator sees them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.operations.item_facts import NOTHING, ItemFacts
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.commands.leases import LeaseText, StateText

RUNNING, PARKED = "running", "parked"
#: Of a worker.
LATE, STOPPING = "late", "stopping"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease(JsonFields):
    """A task that is executed, or that is parked. Times are aware datetimes of the store's clock."""

    task_id: str
    task: str | None
    worker: str
    """Name of the worker that runs it, or ran it last."""
    token: int
    """Fencing number of the lease; only grows."""
    attempt: int
    recoveries: int
    started_at: datetime
    deadline: datetime | None
    """When its worker counts as dead, unless it reports before; None for a parked one."""
    state: str
    """``running`` or ``parked``."""
    reason: str | None = None
    parked_at: datetime | None = None
    item: ItemFacts = NOTHING
    """Key and arguments of an item."""

    @property
    def key(self) -> str | None:
        """The item key; None for a task that is no item, or whose item opted out."""
        return self.item.key

    @property
    def args(self) -> tuple[Any, ...] | None:
        """Arguments of an item; None where they are kept out of listings."""
        return self.item.args

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """The same for those by name."""
        return self.item.kwargs

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = json_fields(self)
        del values["item"]
        return values | self.item.to_dict()


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker(JsonFields):
    """A living worker, as it last reported."""

    name: str
    pid: int | None
    pool: str | None
    concurrency: int | None
    queues: list[str]
    active: int
    """Tasks that it runs."""
    reserved: int
    """Messages of guarded tasks that it has received and not finished, the running ones included."""
    leases: int
    """Leases that it holds."""
    state: str
    """``running``, ``stopping``, or ``late``: it has missed two heartbeats."""
    reported_at: datetime | None
    """None: not yet."""
    deadline: datetime
    """When it counts as dead, unless it reports before."""


def executed(
    task_id: str, lease: LeaseText, state: StateText | None, deadlines: dict[str, int], item: ItemFacts
) -> Lease:
    """A task that is executed.

    Args:
        task_id: its id.
        lease: as it is stored.
        state: what is stored of the task, None if nothing is.
        deadlines: of all workers, by name; ms of the store's time.
        item: key and arguments.
    """
    deadline = deadlines.get(lease.worker)
    return Lease(
        task_id=task_id,
        task=lease.task,
        worker=lease.worker.partition("#")[0],
        token=lease.token,
        attempt=lease.retries + 1,
        recoveries=0 if state is None else state.recoveries,
        started_at=to_datetime(lease.started_at),
        deadline=None if deadline is None else to_datetime(deadline),
        state=RUNNING,
        item=item,
    )


def parked(values: dict[str, Any], item: ItemFacts) -> Lease:
    """A parked task, from what is written down of it."""
    return Lease(
        task_id=values["task_id"],
        task=values["task"],
        worker=values["worker"].partition("#")[0],
        token=values["token"],
        attempt=values["attempt"],
        recoveries=values["recoveries"],
        started_at=to_datetime(int(float(values["started_at"]))),
        deadline=None,
        state=PARKED,
        reason=values["reason"],
        parked_at=to_datetime(int(values["parked_at"])),
        item=item,
    )
