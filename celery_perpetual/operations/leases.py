"""Leases, parked tasks and workers as an operator sees them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from celery_perpetual.errors import ContractError
from celery_perpetual.health.worker_checks import is_late
from celery_perpetual.leases.execution import leased_execution
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.item_facts import NOTHING, ItemFacts, facts_of_items
from celery_perpetual.operations.lease_reports import LATE, RUNNING, STOPPING, Lease, Worker, executed, parked
from celery_perpetual.store.commands.leases import (
    oldest_leases,
    parked_tasks,
    states_of,
)
from celery_perpetual.store.commands.workers import worker_deadlines
from celery_perpetual.tasks.discovery import load
from celery_perpetual.times import to_datetime


class LeaseOperations(Namespace):
    """The part of ``Perpetual`` that is about leases."""

    def leases(self, limit: int = 100) -> list[Lease]:
        """Tasks that are executed right now, oldest first.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        store = self.store
        held, deadlines = oldest_leases(store, limit), worker_deadlines(store)
        states = states_of(store, [task_id for task_id, _ in held])
        items = self._items([task_id for task_id, _ in held])
        return [
            executed(task_id, text, state, deadlines, items.get(task_id, NOTHING))
            for (task_id, text), state in zip(held, states, strict=True)
        ]

    def parked(self, limit: int = 100) -> list[Lease]:
        """Tasks that wait for an operator, longest first: to be recovered, failed or cancelled.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        longest = list(islice(parked_tasks(self.store), limit))
        items = self._items([values["task_id"] for values in longest])
        return [parked(values, items.get(values["task_id"], NOTHING)) for values in longest]

    def _items(self, ids: Sequence[str]) -> dict[str, ItemFacts]:
        """Key and arguments of items; no arguments where a wrong task keeps this process from knowing what to hide."""
        try:
            contracts = load(self.app).tasks
        except ContractError:
            contracts = {}
        return facts_of_items(self.store, contracts, ids)

    def workers(self) -> list[Worker]:
        """Living workers, by name, as they last reported; one that was killed counts as living for a lease time.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        found, now, heartbeat = [], self.store.now(), self.settings.heartbeat
        for each in self.grants.workers.all():
            info = each.info
            state = LATE if is_late(each, now, heartbeat) else STOPPING if info.get("stopping") else RUNNING
            found.append(
                Worker(
                    name=info.get("hostname", each.name), pid=info.get("pid"), pool=info.get("pool"),
                    concurrency=info.get("concurrency"), queues=info.get("queues", []), active=info.get("active", 0),
                    reserved=len(each.tags), leases=each.held,
                    state=state, reported_at=to_datetime(each.reported_at) if each.reported_at else None,
                    deadline=to_datetime(each.deadline),
                )
            )  # fmt: skip
        return sorted(found, key=lambda worker: worker.name)

    def lease_token(self) -> int | None:
        """Inside a task: the fencing number of its lease, greater than that of every earlier execution.

        None outside of a task, and where a task runs without a lease.
        """
        execution = leased_execution()
        return None if execution is None else execution.token

    def still_mine(self) -> bool:
        """Inside a task: ask the store whether this execution still holds its lease; False outside of one.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        execution = leased_execution()
        return execution is not None and execution.leased and self.grants.asks(execution)
