"""The part of ``Perpetual`` that is about items by their keys: their ids are not known outside of a poll."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property, partial
from typing import Any
from uuid import UUID

from celery_perpetual.completions.completion import Completion
from celery_perpetual.ledger.key_holders import key_text
from celery_perpetual.operations.completions import CompletionOperations
from celery_perpetual.operations.items import ItemReport, item_of_key, items
from celery_perpetual.operations.lookup import find as unit_of
from celery_perpetual.operations.polling import PollOperations
from celery_perpetual.store.commands.failed_keys import allow_key
from celery_perpetual.waiting.aio import AsyncWaiting
from celery_perpetual.waiting.key_wait import ItemKey


class KeyOperations(PollOperations, CompletionOperations):
    """Items of perpetual tasks, by their keys."""

    @cached_property
    def aio(self) -> AsyncWaiting:
        """The waits, ``wait_key`` and ``find`` as coroutines."""
        return AsyncWaiting(self._lookup, self._hub, self)

    def find(self, task: Any, key: str | int | UUID, tenant: Any = None) -> Completion | None:
        """The item of a perpetual task that is in flight under a key, or its last end; None where neither is known.

        An end is known as long as its completion is on record (``perpetual_completion_ttl``), and where it was
        announced. Of an item in flight the status is ``pending``, or ``needs_attention`` if it is parked.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the key is none.
            StoreUnavailable: the store did not answer.
        """
        return self._waiting.find(self.item_key(task, key, tenant))

    def wait_key(
        self,
        task: Any,
        key: str | int | UUID,
        timeout: float | timedelta,
        tenant: Any = None,
        nudge: bool = False,
    ) -> Completion:
        """Wait for the end of the item of a perpetual task that has this key, or gets it from a coming poll.

        An end that is on record already is the answer at once. At the time-out ``timed_out`` is True; ``task_id`` is ""
        then if no poll has brought the key. Safe to call from any number of threads at once.

        Args:
            task: a perpetual task or its name.
            key: as the items of ``next_batch`` have it.
            timeout: seconds, or a ``timedelta``.
            tenant: tenant of the task.
            nudge: let the leader poll at once; then an earlier end counts only if that poll does not bring the key.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the key or the time-out is none.
            StoreUnavailable: the store has not answered once. How the task ended raises nothing.
        """
        asks = partial(self.nudge, task, tenant) if nudge else None
        return self._waiting.wait_key(self.item_key(task, key, tenant), timeout, asks)

    def item_key(self, task: Any, key: str | int | UUID, tenant: Any = None) -> ItemKey:
        """The key of an item of a unit, as :meth:`find` and :meth:`wait_key` look it up.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the key is none.
        """
        unit = unit_of(self.app, task, tenant, or_departed=True)
        return ItemKey(unit=unit.name, task=unit.contract.name, tenant=unit.tenant, key=key_text(key))

    def items(
        self,
        task: Any,
        tenant: Any = None,
        key: str | int | UUID | None = None,
        state: str | None = None,
        limit: int = 100,
    ) -> list[ItemReport]:
        """The items of a unit that are in flight, oldest first, and then the item keys that its polls leave out.

        Args:
            task: a perpetual task or its name.
            tenant: tenant of the task.
            key: only this one: the item in flight, what holds the key, or how its last item ended.
            state: only items in this state, see :class:`ItemReport`.
            limit: how many at most.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the key is none, or there is no such state.
            StoreUnavailable: the store did not answer.
        """
        unit = unit_of(self.app, task, tenant, or_departed=True)
        if key is None:
            return items(self.store, unit, state=state, limit=limit)
        found = item_of_key(self.store, unit, key_text(key))
        if not found and (end := self.find(task, key, tenant)) is not None:
            error = None if end.error is None else f"{end.error['type']}: {end.error['message']}"
            found = [
                ItemReport(
                    key=end.key,
                    state=end.status,
                    task_id=end.task_id,
                    task=end.task,
                    since=end.finished_at,
                    error=error,
                )
            ]
        return [each for each in found if state is None or each.state == state]

    def allow(self, task: Any, key: str | int | UUID, tenant: Any = None) -> bool:
        """Let an item key be enqueued again that is held back or parked, and forget its failures; one atomic step.

        False if nothing held it.

        Raises:
            UnknownTask, UnknownUnit: there is no such unit.
            ContractError: the key is none.
            StoreUnavailable: the store did not answer.
        """
        item = self.item_key(task, key, tenant)
        return allow_key(self.store, item.unit, item.key)
