"""Preflights: checks that must have passed before a unit is polled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.parameters import Parameters

PREFIX = "preflight"


@dataclass(frozen=True, slots=True)
class Preflight:
    """One check; it raises where something is wrong."""

    function: Callable[..., Any]
    takes_tenant: bool = False

    def __call__(self, tenant: Any) -> Any:
        """Run the user's function; what it returns may be a coroutine."""
        return self.function(tenant) if self.takes_tenant else self.function()


def read_preflight(function: Any, *, may_take_tenant: bool) -> Preflight:
    """A preflight as it was written.

    Raises:
        ContractError: it is no function, or needs other arguments.
    """
    if not callable(function):
        raise ContractError(f"preflight must be a function or a method, got {function!r}")
    parameters = Parameters.of(function)
    if parameters.need_more(int(may_take_tenant)):
        wanted = "no argument or the tenant" if may_take_tenant else "no argument"
        name = getattr(function, "__qualname__", repr(function))
        raise ContractError(f"preflight must take {wanted}, but {name} needs {', '.join(parameters.needed)}")
    return Preflight(function, may_take_tenant and parameters.takes_one)
