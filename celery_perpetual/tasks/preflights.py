"""Preflights: checks that must have passed before a unit is polled."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_perpetual.errors import ContractError

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
    name = getattr(function, "__qualname__", repr(function))
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return Preflight(function, may_take_tenant)
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    needed = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) > int(may_take_tenant) or any(p.kind is p.KEYWORD_ONLY for p in needed):
        wanted = "no argument or the tenant" if may_take_tenant else "no argument"
        raise ContractError(f"preflight must take {wanted}, but {name} needs {', '.join(p.name for p in needed)}")
    return Preflight(function, may_take_tenant and bool(places))
