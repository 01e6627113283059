"""Finds the perpetual tasks among the registered ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING
from weakref import WeakSet

from celery_perpetual.errors import ContractError, SettingsError
from celery_perpetual.hints import nearest
from celery_perpetual.tasks.contract import TaskContract, is_perpetual, missing_half, read
from celery_perpetual.tasks.modules import belongs_to, included_in
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.tasks.unit import TaskUnit, units_of
from celery_perpetual.thresholds import Thresholds

if TYPE_CHECKING:
    from celery import Celery


@dataclass(frozen=True, slots=True)
class Discovery:
    """The perpetual tasks of the app's registry."""

    tasks: Mapping[str, TaskContract]
    """Perpetual tasks by name, in order of their names."""
    warnings: tuple[str, ...]

    def units(self) -> dict[str, TaskUnit]:
        """Every unit of these tasks, by name, but for those of tenants that a function finds."""
        return {unit.name: unit for contract in self.tasks.values() for unit in units_of(contract)}

    def is_known(self, unit: str) -> bool:
        """Whether a unit is one of these, or may be one: a function of its task's has to say."""
        task, tenant = parse_unit_name(unit)
        contract = self.tasks.get(task)
        if contract is None or contract.has_tenants != (tenant is not None):
            return False
        return contract.tenants is None or tenant in contract.tenants

    def has_departed(self, unit: str) -> bool:
        """Whether the list of its task does not name its tenant any more."""
        task, tenant = parse_unit_name(unit)
        contract = self.tasks.get(task)
        return contract is not None and tenant is not None and contract.tenants is not None and not self.is_known(unit)

    def digest(self) -> str:
        """A digest that differs for different sets of perpetual tasks."""
        return sha256("\n".join(sorted(self.tasks)).encode()).hexdigest()[:16]


#: A name that is less like that of a task than this is no misspelling of it.
ALIKE = 0.8

#: Apps whose modules this process has imported for us.
_loaded: WeakSet[Celery] = WeakSet()


def load(app: Celery) -> Discovery:
    """Import the app's modules if need be, then discover.

    Beat and workers import them at their start; a web process or a shell that only sends tasks never does, and
    ``autodiscover_tasks`` waits for it.

    Raises:
        ContractError: a perpetual task has a wrong value.
    """
    if app not in _loaded:
        app.loader.import_default_modules()
        _loaded.add(app)
    return discover(app)


def unknown_names(discovery: Discovery, disabled: Sequence[str]) -> list[str]:
    """Warn of names in ``perpetual_disabled`` that no perpetual task has: it may be registered later.

    Raises:
        SettingsError: such a name is nearly that of a task, which would be polled.
    """
    warnings = []
    for name in disabled:
        if name in discovery.tasks:
            continue
        if (near := nearest(name, discovery.tasks, ALIKE)) is not None:
            raise SettingsError(f"setting perpetual_disabled names {name!r}, did you mean {near}?")
        warnings.append(f"setting perpetual_disabled names {name!r}, and no perpetual task has this name")
    return warnings


def must_climb(discovery: Discovery, thresholds: Thresholds) -> None:
    """Refuse tasks of which a step of the starvation ladder would come before an earlier one.

    Args:
        discovery: the tasks.
        thresholds: of the app; they hold for the steps of which a task says nothing.

    Raises:
        ContractError: there is such a task; every one is named.
    """
    errors = []
    for contract in discovery.tasks.values():
        try:
            thresholds.replaced("perpetual option starvation", contract.options.starvation or {}, ContractError)
        except ContractError as error:
            errors.append(f"task {contract.name}: {error}")
    if errors:
        raise ContractError("\n".join(errors))


def discover(app: Celery) -> Discovery:
    """Read every registered task, own or inherited attributes, class-based or decorated.

    Raises:
        ContractError: a perpetual task has a wrong value; every wrong one is named.
    """
    found: dict[str, TaskContract] = {}
    warnings: list[str] = []
    errors: list[str] = []
    for name, task in sorted(app.tasks.items()):
        if (missing := missing_half(task)) is not None:
            has = "next_batch" if missing == "poll_every" else "poll_every"
            warnings.append(f"task {name} has {has} but no {missing}, so it is not polled; add {missing}")
        elif is_perpetual(task):
            try:
                found[name] = read(task)
            except ContractError as error:
                errors.append(str(error))
    warnings += [
        f"module {module} is included, but none of its tasks has poll_every and next_batch"
        for module in included_in(app)
        if not any(belongs_to(contract.task, module) for contract in found.values())
    ]
    if errors:
        raise ContractError("\n".join(errors))
    return Discovery(found, tuple(warnings))
