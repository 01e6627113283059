"""Calls the ``tenants`` function of a perpetual task: code of the user's, which may raise, hang, or return anything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.errors import ContractError
from celery_perpetual.polling.coroutines import Loop
from celery_perpetual.polling.django_connections import close_old_connections
from celery_perpetual.tasks.tenants import TenantList, read_list

if TYPE_CHECKING:
    from celery_perpetual.tasks.contract import TaskContract

#: Seconds after which a coroutine is cancelled.
LONGEST_COROUTINE = 300.0


def call_tenants(contract: TaskContract) -> TenantList:
    """The tenants that the function finds now; without a function, those that the contract lists.

    Raises:
        ContractError: it returned no list.
        BaseException: whatever the function raises.
    """
    if contract.find_tenants is None:
        return TenantList(contract.tenants or {})
    loop = Loop(LONGEST_COROUTINE)
    close_old_connections()
    try:
        return read_list(loop.resolve(contract.find_tenants()))
    except ContractError as error:
        raise ContractError(f"task {contract.name}: {error}") from None
    finally:
        loop.close()
        close_old_connections()
