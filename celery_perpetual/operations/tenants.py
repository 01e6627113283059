"""The tenants of a task, as a process sees them that does not poll.

What a ``tenants`` function has found is in the store, kept there by the leader. Where no beat leads, or for a tenant
that the leader has not heard of yet, the function is called here, for a limited time, and its answer kept for a while.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import ContractError, UnknownUnit, described
from celery_perpetual.hints import nearest
from celery_perpetual.namespace import namespace_of
from celery_perpetual.polling.reading_tenants import call_tenants
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.commands.tenants import stored_tenant, stored_tenants
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.tasks.unit import TaskUnit, units_of

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.tasks.contract import TaskContract

#: Seconds that a caller waits for a function.
LONGEST_CALL = 10.0
#: Errors name no more tenants.
NAMED = 5


@dataclass(slots=True)
class _Answer:
    """The values that a function returned in this process."""

    values: Mapping[str, Any] = field(default_factory=dict)
    trouble: str = ""
    """Why it returned nothing."""
    until: float = 0.0
    """It is called again after this (monotonic)."""


_answers: WeakKeyDictionary[Celery, dict[str, _Answer]] = WeakKeyDictionary()


def known_tenants(app: Celery, contract: TaskContract) -> Mapping[str, Any]:
    """Name -> value of the tenants that a contract has now.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    if contract.find_tenants is None:
        return contract.tenants or {}
    store = namespace_of(app).store
    stored = stored_tenants(store, contract.name)
    if stored and leader_info(store) is not None:
        return stored
    answer = _answer(app, contract)
    return stored if answer.trouble else answer.values


def known_units(app: Celery, contract: TaskContract) -> list[TaskUnit]:
    """The units of a contract, one for each of these tenants.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return units_of(contract, known_tenants(app, contract) if contract.find_tenants else None)


def unit_of(app: Celery, contract: TaskContract, tenant: Any) -> TaskUnit:
    """The unit of a contract and a tenant, given as its name or as a whole.

    Raises:
        UnknownUnit: the task has no such tenant, has none at all, or has tenants and none was given.
        StoreUnavailable: the store did not answer.
    """
    if not contract.has_tenants:
        if tenant is not None:
            raise UnknownUnit(f"task {contract.name} has no tenants, got tenant {tenant!r}")
        return TaskUnit(contract)
    if tenant is None:
        named = _some(known_tenants(app, contract))
        raise UnknownUnit(f"task {contract.name} has tenants, so a tenant must be given; {named}")
    try:
        name, _ = tenant_of(tenant)
    except ContractError as error:
        raise UnknownUnit(f"task {contract.name} has no tenant {str(tenant)[:80]!r}: {error}") from None
    if contract.find_tenants is None:
        values, trouble = contract.tenants or {}, ""
    else:
        store = namespace_of(app).store
        stored = stored_tenant(store, contract.name, name)
        if stored is not None and leader_info(store) is not None:
            return TaskUnit(contract, name, stored)
        answer = _answer(app, contract)
        values, trouble = answer.values, answer.trouble
        if trouble and stored is not None:
            return TaskUnit(contract, name, stored)
    if name not in values:
        near = nearest(name, values)
        hint = trouble or (f"did you mean {near}?" if near else _some(values))
        raise UnknownUnit(f"task {contract.name} has no tenant {name[:80]!r}; {hint}")
    return TaskUnit(contract, name, values[name])


def tenants_trouble(app: Celery, contract: TaskContract) -> str:
    """The fault of the tenants function of a contract, called here; "" without one."""
    return "" if contract.find_tenants is None else _answer(app, contract).trouble


def _answer(app: Celery, contract: TaskContract) -> _Answer:
    answers = _answers.setdefault(app, {})
    known = answers.get(contract.name)
    if known is None or known.until < time.monotonic():
        ttl = contract.options.tenants_ttl
        known = answers[contract.name] = _called(contract)
        known.until = time.monotonic() + (namespace_of(app).settings.tenants_ttl if ttl is None else ttl)
    return known


def _called(contract: TaskContract) -> _Answer:
    call = CallApart(lambda: call_tenants(contract).values, "perpetual-tenants")
    if not call.is_over(LONGEST_CALL):
        return _Answer(trouble=f"its tenants function has not returned for {LONGEST_CALL:g} s")
    if call.error is not None:
        return _Answer(trouble=f"its tenants function raised {described(call.error)}")
    return _Answer(values=call.answer())


def _some(tenants: Mapping[str, Any]) -> str:
    names = [name[:80] for name in list(tenants)[:NAMED]]
    more = f" and {len(tenants) - NAMED} more" if len(tenants) > NAMED else ""
    return f"known are: {', '.join(names) or 'none'}{more}"
