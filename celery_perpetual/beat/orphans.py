"""Orphans: units that the store remembers and no leader knows any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from celery_perpetual import events
from celery_perpetual.errors import StoreRefused
from celery_perpetual.store.commands.units import units_last_known_before
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.telemetry import emit

#: A deploy that is rolled back within this time finds its units as it left them.
AGE_MS = 7 * 24 * 3600 * 1000


class KnownUnits(Protocol):
    """The units that the code of one process has."""

    def is_known(self, unit: str) -> bool:
        """Whether the code has it, or may have it."""
        ...

    def has_departed(self, unit: str) -> bool:
        """Whether the code has its task, and its tenant is gone."""
        ...


class Orphans:
    """Forgets units that no leader has known for a week; some of them with each pass.

    A cursor is forgotten only with a tenant that is gone: a unit whose task is missing may come back with the next
    deploy.
    """

    def __init__(self, store: Store, known: Callable[[], KnownUnits], limit: int = 100) -> None:
        self._store = store
        self._known = known
        self._limit = limit
        self._kept = 0
        """How many of the oldest stay: those with a cursor, or known here and disabled. The next pass begins there."""

    def drop(self) -> int:
        """Look at the next ``limit`` units; returns how many are gone."""
        known = self._known()
        oldest = units_last_known_before(self._store, self._store.now() - AGE_MS, self._kept, self._limit)
        dropped = sum(self._try(unit, known.has_departed(unit)) for unit in oldest if not known.is_known(unit))
        self._kept = self._kept + len(oldest) - dropped if len(oldest) == self._limit else 0
        return dropped

    def _try(self, unit: str, departed: bool) -> bool:
        """A unit that the store refuses to drop does not hold up the others."""
        try:
            return self._is_dropped(unit, departed)
        except StoreRefused as error:
            emit(events.PART_FAILED, part=f"the removal of unit {unit}", error=error)
            return False

    def _is_dropped(self, unit: str, departed: bool) -> bool:
        keys = self._store.keys
        task, tenant = parse_unit_name(unit)
        answer = script("drop_unit")(
            self._store, unit_hash=keys.unit(unit), polls=keys.polls(unit), failed=keys.failed(unit),
            failures=keys.failures(unit), follow_ups=keys.follow_ups(unit), tenants=keys.tenants(task), unit=unit,
            tenant=tenant or "", age=AGE_MS, departed=int(departed),
        )  # fmt: skip
        return bool(answer == 1)
