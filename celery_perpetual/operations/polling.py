"""The part of ``Perpetual`` that is about polls and units."""

from __future__ import annotations

from typing import Any

from celery_perpetual.errors import ContractError
from celery_perpetual.hints import hint
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.cursors import forget_cursor, write_cursor
from celery_perpetual.operations.lookup import find, find_contract
from celery_perpetual.operations.polls import nudge, poll_by_hand, poll_in_worker
from celery_perpetual.operations.preview import Preview, preview
from celery_perpetual.operations.units import STATES, Unit, Units, Wanted
from celery_perpetual.operations.why import Explanation, explain
from celery_perpetual.polling.outcome import PollOutcome, outcomes
from celery_perpetual.settings import whole
from celery_perpetual.tasks.items import UNSET
from celery_perpetual.tasks.tenants import tenant_of
from celery_perpetual.tasks.unit import TaskUnit


class PollOperations(Namespace):
    """Units, their polls and their cursors."""

    @property
    def _units(self) -> Units:
        return Units(self.app, self.settings, self.store, self.pauses)

    def units(
        self,
        task: Any = None,
        tenant: Any = None,
        *,
        state: str | None = None,
        limit: int | None = None,
        after: str | None = None,
    ) -> list[Unit]:
        """Units by name, with their state, next and last poll, and how far they are behind.

        Args:
            task: only those of this task (its name, or the task itself).
            tenant: only those of this tenant.
            state: only those in this state.
            limit: no more than these; all unless given.
            after: only those whose name comes behind this one, for the next page.

        Raises:
            UnknownTask: no perpetual task has this name.
            ContractError: there is no such state, or the limit is no whole number of at least 1.
            StoreUnavailable: the store did not answer.
        """
        if state is not None and state not in STATES:
            raise ContractError(f"units: there is no state {state!r}{hint(state, STATES)}")
        if limit is not None:
            whole("units: limit", limit, error=ContractError)
        name = None if task is None else find_contract(self.app, task).name
        tenant_name = None if tenant is None else tenant_of(tenant)[0]
        return self._units.some(Wanted(task=name, tenant=tenant_name, state=state, after=after, limit=limit))

    def poll(self, task: Any, tenant: Any = None) -> PollOutcome:
        """Evaluate ``next_batch`` and enqueue, now and in this process, without moving the cadence.

        It takes the unit's claim like any poll (one that is open: ``skipped``, gate ``busy``) and passes over pause,
        ``enabled`` and back-off, not over ``max_in_flight``. Blocks at most ``poll_timeout`` for ``next_batch``.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer. An error of ``next_batch`` is the status ``failed``.
        """
        return poll_by_hand(self.store, self.runner, find(self.app, task, tenant))

    def polls(self, task: Any, tenant: Any = None, limit: int = 20) -> list[PollOutcome]:
        """Outcomes of a unit, newest first.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer.
        """
        return outcomes(self.store, find(self.app, task, tenant, or_departed=True).name, limit)

    def why(self, task: Any, tenant: Any = None) -> Explanation:
        """Explain from what is stored why a unit is quiet, or what it does next.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer.
        """
        unit = find(self.app, task, tenant, or_departed=True)
        return explain(self, unit.contract, self._units.one(unit))

    def cursor(self, task: Any, tenant: Any = None) -> Any:
        """The unit's cursor, or None.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer.
        """
        return self._units.one(find(self.app, task, tenant, or_departed=True)).cursor

    def set_cursor(self, task: Any, value: Any, tenant: Any = None) -> None:
        """Set the unit's cursor; its next poll gets it.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the value is not JSON, or a poll of the unit is open just now.
            StoreUnavailable: the store did not answer.
        """
        write_cursor(self.store, find(self.app, task, tenant, or_departed=True), value)

    def reset_cursor(self, task: Any, tenant: Any = None) -> None:
        """Forget the unit's cursor: its next poll gets None and reads from the beginning.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: a poll of the unit is open just now.
            StoreUnavailable: the store did not answer.
        """
        forget_cursor(self.store, find(self.app, task, tenant, or_departed=True))

    def preview(self, task: Any, tenant: Any = None, cursor: Any = UNSET) -> Preview:
        """Call ``next_batch`` here and say what a poll would enqueue; writes nothing.

        Args:
            cursor: evaluate from here instead of the unit's own cursor.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer. An error of ``next_batch`` is the status ``failed``.
        """
        return preview(self.store, self.runner, find(self.app, task, tenant), cursor)

    def nudge(self, task: Any, tenant: Any = None) -> bool:
        """Let the leader poll the unit at once, out of turn; False if no leader has it in its clock.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            StoreUnavailable: the store did not answer.
        """
        return nudge(self.store, find(self.app, task, tenant))

    def poll_here(self, task: str, poll_id: str, following: str, tenant: Any = None) -> str:
        """Evaluate a poll whose claim travelled to this process; the task ``celery_perpetual.poll`` calls it."""
        name, value = (None, None) if tenant is None else tenant_of(tenant)
        unit = TaskUnit(find_contract(self.app, task), name, value)
        return poll_in_worker(self.store, self.runner, unit, poll_id, following)
