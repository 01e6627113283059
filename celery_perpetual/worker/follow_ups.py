"""``after_success``: a task that has succeeded names further items of its unit.

It is called in the process that runs the task, after the body and before the end is announced: if the process dies in
between, the task runs again, and so does its ``after_success``. Nothing that it does changes how the task ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery.exceptions import WorkerShutdown, WorkerTerminate

from celery_perpetual import events
from celery_perpetual.errors import ContractError
from celery_perpetual.ledger.item import ItemReader
from celery_perpetual.ledger.record import encode
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.reading import entries_of
from celery_perpetual.store.commands.follow_ups import add_follow_ups
from celery_perpetual.tasks.contract import TaskContract, is_perpetual, read
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery_perpetual.leases.execution import Execution

_contracts: WeakKeyDictionary[type, TaskContract] = WeakKeyDictionary()


def name_follow_ups(task: Any, execution: Execution, result: Any) -> None:
    """Call a task's ``after_success``, if it has one, and keep what it names for the next poll of its unit."""
    if getattr(task, "after_success", None) is None or not is_perpetual(task):
        return
    try:
        _name(task, result)
    except (WorkerShutdown, WorkerTerminate):
        raise
    except (Exception, SystemExit) as error:  # code of the user's, and a store that may be away
        emit(events.FOLLOW_UPS_FAILED, task_id=execution.task_id, task=task.name, error=error)


def _name(task: Any, result: Any) -> None:
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
        unit = _unit(task.app.perpetual, contract)
        add_follow_ups(task.app.perpetual.store, unit.name, [encode(item, contract.name) for item in items])


def _unit(perpetual: Any, contract: TaskContract) -> TaskUnit:
    if not contract.has_tenants:
        return TaskUnit(contract)
    tenant = perpetual.tenant()
    if tenant is None:
        raise ContractError(
            f"task {contract.name} has tenants, and this one was enqueued by no poll of theirs, so what its "
            "after_success names has no unit; return None there"
        )
    return TaskUnit(contract, *tenant_of(tenant))
