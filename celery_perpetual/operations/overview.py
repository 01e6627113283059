"""Everything that one screen shows: how all is, and every unit with its lag."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual.operations.lag import Lag
from celery_perpetual.operations.status import Status, status
from celery_perpetual.operations.units import Unit, Units, Wanted

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """The whole at one moment."""

    status: Status
    units: tuple[Unit, ...]
    """By name, with their lag; none where the store does not answer."""
    seconds: float
    """How long the reading took."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return self.status.to_dict() | {"units": [unit.to_dict() for unit in self.units]}


def overview(namespace: Namespace) -> Overview:
    """Read everything.

    Raises:
        SettingsError, ContractError: a setting or a task is wrong.
        StoreUnavailable: the store went away in the middle.
    """
    begun, found = time.monotonic(), status(namespace)
    reader = Units(namespace.app, namespace.settings, namespace.store, namespace.pauses)
    units = () if found.is_blind else tuple(reader.some(Wanted()))
    return Overview(status=found, units=units, seconds=time.monotonic() - begun)


def _most(number: Callable[[Lag], float | None]) -> Callable[[Unit], tuple[bool, float, str]]:
    """The largest first, what is not known last, and then by name."""

    def key(unit: Unit) -> tuple[bool, float, str]:
        found = None if unit.lag is None else number(unit.lag)
        return found is None, -(found or 0.0), unit.name

    return key


#: By what units can be sorted.
ORDERS: dict[str, Callable[[Unit], Any]] = {
    "name": lambda unit: unit.name,
    "state": lambda unit: (unit.state == "active", unit.state, -unit.attempt, unit.name),
    "flight": lambda unit: (-unit.in_flight, unit.name),
    "backlog": _most(lambda lag: lag.backlog),
    "rate": _most(lambda lag: lag.rate_1m),
    "lag": _most(lambda lag: lag.poll_lag),
    "source": _most(lambda lag: lag.source_lag),
    "wait": _most(lambda lag: lag.start_delay),
    "budget": _most(lambda lag: lag.budget_used),
}


def in_order(units: Sequence[Unit], order: str) -> list[Unit]:
    """Units by one of :data:`ORDERS`; all but names with the most remarkable ones first."""
    return sorted(units, key=ORDERS[order])
