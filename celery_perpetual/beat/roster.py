"""The units that this process knows, read again when the app's registry changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.errors import ContractError
from celery_perpetual.tasks.discovery import Discovery, discover
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings


class Roster:
    """The units of an app: each of its perpetual tasks for each of its tenants."""

    def __init__(self, app: Celery, settings: Settings) -> None:
        """Discover.

        Raises:
            ContractError: a perpetual task has a wrong value.
        """
        self._app = app
        self._settings = settings
        self._names = frozenset(app.tasks)
        self.version = 0
        self._use(discover(app))

    def refresh(self) -> None:
        """Discover again if tasks came or went."""
        if len(self._app.tasks) == len(self._names):
            return
        self._names = frozenset(self._app.tasks)
        try:
            self._use(discover(self._app))
        except ContractError as error:
            emit(events.CONTRACT_REFUSED, error=error)
        else:
            self.version += 1

    def _is_polled(self, unit: TaskUnit) -> bool:
        return unit.contract.options.enabled and unit.contract.name not in self._settings.disabled

    def _use(self, discovery: Discovery) -> None:
        self.discovery = discovery
        known = discovery.units()
        self.units: Mapping[str, TaskUnit] = {name: unit for name, unit in known.items() if self._is_polled(unit)}
        """The units that are polled, by name."""
        self.disabled = known.keys() - self.units.keys()
        for warning in discovery.warnings:
            emit(events.CONTRACT_WARNING, warning=warning)
