"""``after_success``: a task that has succeeded names further items of its unit.

It is called in the process that runs the task, after the body and before the end is announced: if the process dies in
between, the task runs again, and so does its ``after_success``. Nothing that it does changes how the task ends. While
the store is away, its items wait in the process as the end does, and before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.exceptions import WorkerShutdown, WorkerTerminate

from celery_perpetual import events
from celery_perpetual.completions.end import FIRST, EndReply
from celery_perpetual.errors import ContractError
from celery_perpetual.leases.execution import tenant_of_execution
from celery_perpetual.leases.time_limits import time_to_end
from celery_perpetual.ledger.item import ItemReader
from celery_perpetual.ledger.record import encode
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.reading import entries_of
from celery_perpetual.store.commands.follow_ups import FollowUps
from celery_perpetual.tasks.contract import TaskContract, is_perpetual, read
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery_perpetual.leases.execution import Execution
    from celery_perpetual.store.connection import Store


@dataclass(slots=True, kw_only=True)
class NamedItems:
    """The items that one task has named, as a call that is repeated until the store takes it."""

    contract: TaskContract
    execution: Execution
    records: list[bytes]
    store: Store
    _items: FollowUps | None = None

    @property
    def task_id(self) -> str:
        return self.execution.task_id

    def announce(self, status: str, head: str, stored: Any = None, over: Store | None = None) -> EndReply:  # noqa: ARG002  # as ends are announced
        """Make the call; items that turn out to have no unit are dropped, as no repetition would find one."""
        store = over or self.store
        try:
            if self._items is None:
                self._items = FollowUps(self._unit(store).name, self.records)
        except ContractError as error:
            emit(events.FOLLOW_UPS_FAILED, task_id=self.task_id, task=self.contract.name, error=error)
        else:
            self._items.add(store)
        return EndReply(FIRST, 0, 0)

    def _unit(self, store: Store) -> TaskUnit:
        if not self.contract.has_tenants:
            return TaskUnit(self.contract)
        tenant = tenant_of_execution(store, self.execution)
        if tenant is None:
            raise ContractError(
                f"task {self.contract.name} has tenants, and this one was enqueued by no poll of theirs, so what its "
                "after_success names has no unit; return None there"
            )
        return TaskUnit(self.contract, *tenant_of(tenant))


_contracts: WeakKeyDictionary[type, TaskContract] = WeakKeyDictionary()


def name_follow_ups(task: Any, execution: Execution, result: Any) -> None:
    """Call a task's ``after_success``, if it has one, and keep what it names for the next poll of its unit."""
    if getattr(task, "after_success", None) is None or not is_perpetual(task):
        return
    try:
        _name(task, execution, result)
    except (WorkerShutdown, WorkerTerminate):
        raise
    except (Exception, SystemExit) as error:  # code of the user's, and a store that may be away
        emit(events.FOLLOW_UPS_FAILED, task_id=execution.task_id, task=task.name, error=error)


def _name(task: Any, execution: Execution, result: Any) -> None:
    contract = _contracts.get(type(task))
    if contract is None:
        contract = _contracts[type(task)] = read(task)
    assert contract.after_success is not None
    loop = Loop(contract.poll_timeout)
    try:
        given = loop.resolve(contract.after_success(result))
        if given is None:
            return
        reader = ItemReader(task.app, contract)
        items = [reader.read(at, entry) for at, entry in enumerate(entries_of(f"{task.name}.after_success", given))]
    finally:
        loop.close()
    if items:
        perpetual, records = task.app.perpetual, [encode(item, contract.name) for item in items]
        named = NamedItems(contract=contract, execution=execution, records=records, store=perpetual.grants.store)
        perpetual.announcer.call_or_keep(named, time_to_end(execution))
