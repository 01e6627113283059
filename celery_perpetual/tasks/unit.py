"""Units: what is polled, paused and backed off."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.names import unit_name


@dataclass(frozen=True, slots=True)
class TaskUnit:
    """One perpetual task for one tenant; without a fan-out the tenant is None."""

    contract: TaskContract
    tenant: str | None = None
    """Name of the tenant."""
    tenant_value: Any = None
    """The tenant itself, as ``next_batch`` gets it: a JSON value."""
    name: str = field(init=False)
    """``perpetual:{task}`` or ``perpetual:{task}:{tenant}``; the store's keys are made of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", unit_name(self.contract.name, self.tenant))

    @property
    def copied_tenant(self) -> Any:
        """The tenant itself, for code of the user, which may change what it gets."""
        return deepcopy(self.tenant_value) if isinstance(self.tenant_value, dict) else self.tenant_value

    @property
    def tenant_json(self) -> str:
        """The tenant as it is stored; "" without one."""
        return "" if self.tenant is None else json.dumps(self.tenant_value)


def units_of(contract: TaskContract, tenants: Mapping[str, Any] | None = None) -> list[TaskUnit]:
    """The units of one contract: one for each of its tenants.

    Args:
        tenants: name -> value, where the contract has a function for them; it is not called here.
    """
    if not contract.has_tenants:
        return [TaskUnit(contract)]
    values = contract.tenants if contract.find_tenants is None else tenants
    return [TaskUnit(contract, name, value) for name, value in (values or {}).items()]
