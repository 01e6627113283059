"""The pace of a source: polls of all units with one ``source_key`` keep ``min_interval``, and wait when it asks for it.

The store keeps the pace, so it holds for all tenants, processes and beats. A unit that gets none now is due when its
permit counts; it is asked once, however many wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.unit import TaskUnit
from celery_perpetual.times import ms


def source_of(unit: TaskUnit) -> str:
    """The key of the unit's source; "" where it shares and keeps no pace."""
    options = unit.contract.options
    return options.source_key or (unit.name if options.min_interval else "")


class Permits:
    """Asks for permits, for the clock of a leading beat."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, leader: str, units: Sequence[TaskUnit]) -> dict[str, int]:
        """When each of these due units may be polled, by name: 0 is now, and a unit without a permit is left out.

        A time above 0 means that the source has asked to be left alone until then; ms.
        """
        rows = [
            text for unit in units for text in (unit.name, source_of(unit), str(ms(unit.contract.options.min_interval)))
        ]
        answers = script("take_permits")(self._store, mine=leader, call=uuid4().hex, rows=rows)
        return {unit.name: int(answer) for unit, answer in zip(units, answers, strict=True) if int(answer) >= 0}
