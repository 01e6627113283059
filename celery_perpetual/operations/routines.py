"""The part of ``Perpetual`` that is about routines."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property

from celery_perpetual.operations.item_keys import KeyOperations
from celery_perpetual.routines.aio import AsyncRoutines
from celery_perpetual.routines.headers import slot_of_this_task
from celery_perpetual.routines.routines import Routines
from celery_perpetual.waiting.aio import AsyncWaiting


class AsyncOperations(AsyncWaiting):
    """``perpetual.aio``: the waits as coroutines, and the routines."""

    routines: AsyncRoutines
    """The operations on routines as coroutines."""


class RoutineOperations(KeyOperations):
    """Routines."""

    @cached_property
    def routines(self) -> Routines:
        """Durable records of work that runs once, at an interval, or by a calendar."""
        return Routines(self)

    @cached_property
    def aio(self) -> AsyncOperations:
        """``wait``, ``wait_any``, ``wait_all``, ``as_completed`` and ``wait_batch`` as coroutines, and ``routines``."""
        operations = AsyncOperations(self._lookup, self._hub, self)
        operations.routines = AsyncRoutines(self.routines)
        return operations

    def slot(self) -> datetime | None:
        """The time for which the task runs that calls it; None where it is no run of a routine. Asks no server.

        It is the same for all attempts, however late they are.
        """
        return slot_of_this_task()
