"""Units: what is polled, paused and backed off."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.names import unit_name


@dataclass(frozen=True, slots=True)
class TaskUnit:
    """One perpetual task for one tenant; without a fan-out the tenant is None."""

    contract: TaskContract
    tenant: str | None = None
    name: str = field(init=False)
    """``perpetual:{task}`` or ``perpetual:{task}:{tenant}``; the store's keys are made of it."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", unit_name(self.contract.name, self.tenant))


def units_of(contract: TaskContract) -> list[TaskUnit]:
    """The units of one contract: one for each of its tenants, which is only None so far."""
    return [TaskUnit(contract)]
