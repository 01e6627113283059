"""Orphans: units that the store remembers and no leader knows any more."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Set as AbstractSet

from celery_perpetual import events
from celery_perpetual.errors import StoreRefused
from celery_perpetual.store.commands.units import units_last_known_before
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit

#: A deploy that is rolled back within this time finds its units as it left them.
AGE_MS = 7 * 24 * 3600 * 1000


class Orphans:
    """Forgets units that no leader has known for a week, but never a cursor; some of them with each pass."""

    def __init__(self, store: Store, known: Callable[[], AbstractSet[str]], limit: int = 100) -> None:
        self._store = store
        self._known = known
        self._limit = limit
        self._kept = 0
        """How many of the oldest stay: those with a cursor, or known here and disabled. The next pass begins there."""

    def drop(self) -> int:
        """Look at the next ``limit`` units; returns how many are gone."""
        known = self._known()
        oldest = units_last_known_before(self._store, self._store.now() - AGE_MS, self._kept, self._limit)
        dropped = sum(self._try(unit) for unit in oldest if unit not in known)
        self._kept = self._kept + len(oldest) - dropped if len(oldest) == self._limit else 0
        return dropped

    def _try(self, unit: str) -> bool:
        """A unit that the store refuses to drop does not hold up the others."""
        try:
            return self._is_dropped(unit)
        except StoreRefused as error:
            emit(events.PART_FAILED, part=f"the removal of unit {unit}", error=error)
            return False

    def _is_dropped(self, unit: str) -> bool:
        keys = self._store.keys
        answer = script("drop_unit")(
            self._store, unit_hash=keys.unit(unit), polls=keys.polls(unit), failed=keys.failed(unit),
            failures=keys.failures(unit), unit=unit, age=AGE_MS,
        )  # fmt: skip
        return bool(answer == 1)
