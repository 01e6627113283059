"""The part of ``Perpetual`` from which code of the user's reads for which tenant it works."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from types import ModuleType
from typing import Any, TypeVar, overload

from celery_perpetual.errors import ContractError
from celery_perpetual.leases.execution import current, tenant_of_execution
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.tenant_context import TenantContext, TenantContexts
from celery_perpetual.polling.current import polled_unit
from celery_perpetual.tasks.items import UNSET
from celery_perpetual.tasks.modules import include
from celery_perpetual.tasks.preflights import read_preflight
from celery_perpetual.tasks.tenants import tenant_of

F = TypeVar("F", bound=Callable[[], Any])


class TenantOperations(Namespace):
    """Tenants, inside tasks and polls."""

    def include(self, module: str | ModuleType) -> None:
        """Add a module of tasks: ``tenants`` and ``preflight`` there are those of its perpetual
        tasks which give none themselves.

        A task of the module that says ``tenants=None`` has none. A name is imported when Celery imports the app's
        modules, so that the module may import the app.

        Args:
            module: a module, or its dotted name; a package stands for all modules below it.

        Raises:
            ContractError: it is neither a module nor a name.
        """
        include(self.app, module)

    @overload
    def preflight(self, function: F, *, name: str | None = None) -> F: ...

    @overload
    def preflight(self, function: None = None, *, name: str | None = None) -> Callable[[F], F]: ...

    def preflight(self, function: Any = None, *, name: str | None = None) -> Any:
        """Decorate a function that must pass before any unit is polled: ``@perpetual.preflight``.

        It takes no argument, and raises where something is wrong. See the page on preflights.

        Args:
            function: may be a coroutine function.
            name: what reports call it; the function's own name unless given.

        Raises:
            ContractError: it needs arguments, or another preflight has this name.
        """
        if function is None:
            return lambda given: self.preflight(given, name=name)
        called = str(name or getattr(function, "__name__", ""))
        known, own = self.common_preflights.get(called), read_preflight(function, may_take_tenant=False).function
        if not called or (known is not None and _place(known) != _place(own)):
            raise ContractError(f"preflight {called!r}: give each preflight a name of its own")
        self.common_preflights[called] = own
        return function

    def tenant(self) -> Any:
        """Inside a task: the tenant whose poll has enqueued it; inside ``next_batch``: that of the poll.

        A str, an int, or a dict with a ``key``, as ``tenants`` gave it to that poll. None outside of both, without a
        fan-out, and in a task that no poll has enqueued. A task asks the store once.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        unit = polled_unit()
        if unit is not None:
            return unit.copied_tenant
        execution = current()
        while execution is not None:
            if (found := tenant_of_execution(self.store, execution)) is not None:
                return found
            execution = execution.outer
        return None

    def tenant_context(self, tenant: Any = UNSET) -> TenantContext:
        """Values that this process keeps for a tenant: ``tenant_context(tenant).get("id", look_up)`` looks up once.

        Args:
            tenant: the tenant, or its name; by default that of :meth:`tenant`.

        Raises:
            ContractError: it cannot be a tenant.
            StoreUnavailable: no tenant was given, and the store did not answer.
        """
        value = self.tenant() if tenant is UNSET else tenant
        return self._tenant_contexts.of(None if value is None else tenant_of(value)[0])

    @cached_property
    def _tenant_contexts(self) -> TenantContexts:
        return TenantContexts()


def _place(function: Any) -> tuple[Any, Any]:
    """Where a function is written: the same module may be imported once more."""
    return getattr(function, "__module__", None), getattr(function, "__qualname__", function)
