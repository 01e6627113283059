"""The units that this process knows: read again when the app's registry changes, and when tenants come and go."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual import events
from celery_perpetual.broker.task_queues import LONGEST, LONGEST_AT_START, TaskQueues
from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.cadence import Cadence
from celery_perpetual.tasks.contract import TaskContract
from celery_perpetual.tasks.discovery import Discovery, discover, must_climb, unknown_names
from celery_perpetual.tasks.names import task_of
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings


#: Slots of a unit that are less than so many ms apart leave no time to wait for other units.
HURRIED_MS = 1000


class _Offer(NamedTuple):
    """The units of one task whose tenants a function finds."""

    leader: str
    task: str
    units: Mapping[str, TaskUnit]
    confirmed: bool


class Roster:
    """The units of an app: each of its perpetual tasks for each of its tenants.

    The clock's thread calls :meth:`refresh`; other threads may read, and :meth:`offer`. What they read is replaced as a
    whole and never changed.
    """

    def __init__(self, app: Celery, settings: Settings) -> None:
        """Discover.

        Raises:
            ContractError: a perpetual task has a wrong value.
        """
        self._app = app
        self._queues = TaskQueues(app)
        self._settings = settings
        self._names = frozenset(app.tasks)
        self._leader = ""
        self._offers: deque[_Offer] = deque()
        self._found: dict[str, _Offer] = {}
        self._arrived: list[TaskUnit] = []
        self._departed: list[str] = []
        self.version = 0
        self._cadences: Mapping[str, Cadence] = {}
        self._cadences_in_use: Mapping[str, Cadence] = self._cadences
        self._use(self._discovered(), LONGEST_AT_START)
        for warning in unknown_names(self.discovery, settings.disabled):
            emit(events.CONTRACT_WARNING, warning=warning)

    def refresh(self, leader: str) -> None:
        """Discover again if tasks came or went, and use what was offered. A new term begins without found tenants."""
        if leader != self._leader:
            self._leader, self._found = leader, {}
            self._combine()
        if len(self._app.tasks) != len(self._names) or self._cadences is not self._cadences_in_use:
            self._discover_again()
        while self._offers:
            offer = self._offers.popleft()
            if offer.leader == leader:
                self._accept(offer)

    def use_cadences(self, cadences: Mapping[str, Cadence]) -> None:
        """Poll these tasks at other times than their code says, all others as it says. From any thread."""
        if {name: each.spec for name, each in cadences.items()} != {
            name: each.spec for name, each in self._cadences.items()
        }:
            self._cadences = cadences

    def offer(self, leader: str, task: str, units: Mapping[str, TaskUnit], *, confirmed: bool) -> None:
        """Give the units of a task whose tenants a function finds.

        Args:
            leader: the term (``owner:term``) for which this holds.
            confirmed: whether the function has returned them in this term.
        """
        self._offers.append(_Offer(leader, task, units, confirmed))

    def take_changes(self) -> tuple[list[TaskUnit], list[str]]:
        """Units that are new or different, and names of units that have gone, since the last call."""
        arrived, departed = self._arrived, [name for name in self._departed if name not in self.units]
        self._arrived, self._departed = [], []
        return arrived, departed

    def with_functions(self) -> list[TaskContract]:
        """The contracts that are polled and whose tenants a function finds."""
        return [each for each in self.discovery.tasks.values() if each.find_tenants and self._is_polled(each)]

    def may_come(self, unit: str) -> bool:
        """Whether a unit that is not known belongs to a task whose tenants have not been found yet in this term."""
        contract = self._with_function(unit)
        return contract is not None and contract.name not in self._found

    def is_known(self, unit: str) -> bool:
        """Whether a unit is polled or disabled, or may still come."""
        contract = self._with_function(unit)
        if contract is None or contract.name not in self._found:
            return self.discovery.is_known(unit)
        return unit in self.units

    def has_departed(self, unit: str) -> bool:
        """Whether a unit's task is here, and its tenant surely is not."""
        contract = self._with_function(unit)
        if contract is None:
            return self.discovery.has_departed(unit)
        found = self._found.get(contract.name)
        return found is not None and found.confirmed and unit not in found.units

    def _with_function(self, unit: str) -> TaskContract | None:
        """The contract of a unit, where it is polled and a function finds its tenants."""
        contract = self.discovery.tasks.get(task_of(unit) or "")
        is_found = contract is not None and contract.find_tenants is not None and self._is_polled(contract)
        return contract if is_found else None

    def _discover_again(self) -> None:
        self._names = frozenset(self._app.tasks)
        self._cadences_in_use = self._cadences
        try:
            self._use(self._discovered())
        except ContractError as error:
            emit(events.CONTRACT_REFUSED, error=error)
        else:
            self.version += 1

    def _discovered(self) -> Discovery:
        found = discover(self._app)
        must_climb(found, self._settings.starvation)
        return found

    def _accept(self, offer: _Offer) -> None:
        before = self._found[offer.task].units if offer.task in self._found else {}
        self._found[offer.task] = offer
        self._arrived += [unit for name, unit in offer.units.items() if before.get(name) is not unit]
        self._departed += [name for name in before if name not in offer.units]
        self._combine()

    def _is_polled(self, contract: TaskContract) -> bool:
        return contract.options.enabled and contract.name not in self._settings.disabled

    def _use(self, discovery: Discovery, longest: float = LONGEST) -> None:
        self.code: Mapping[str, TaskContract] = discovery.tasks
        """The perpetual tasks as their code has them, by name."""
        queues = self._queues.of({name: each.task for name, each in discovery.tasks.items()}, longest)
        tasks = {
            name: replace(each, cadence=self._cadences_in_use.get(name, each.cadence), queue=queues[name])
            for name, each in discovery.tasks.items()
        }
        self.discovery = replace(discovery, tasks=tasks)
        self._found = {
            task: offer._replace(units={n: replace(unit, contract=tasks[task]) for n, unit in offer.units.items()})
            for task, offer in self._found.items()
            if task in tasks
        }
        known = self.discovery.units()
        self.has_low_water = any(contract.options.low_water for contract in tasks.values())
        """Whether the end of a task may make a unit due."""
        self.is_hurried = any((contract.cadence.every_ms or HURRIED_MS) < HURRIED_MS for contract in tasks.values())
        """Whether the slots of a unit are less than a second apart."""
        self._fixed = {name: unit for name, unit in known.items() if self._is_polled(unit.contract)}
        self.disabled = known.keys() - self._fixed.keys()
        self._combine()
        for warning in discovery.warnings:
            emit(events.CONTRACT_WARNING, warning=warning)

    def _combine(self) -> None:
        units = dict(self._fixed)
        for offer in self._found.values():
            units.update(offer.units)
        self.units: Mapping[str, TaskUnit] = units
        """The units that are polled, by name."""
