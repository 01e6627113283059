"""Waiting for an item key: first for the task that gets it, then for the end of that task.

The id of an item is not known outside of a poll. The store says which task holds a key. When a poll of the unit ends,
the store publishes that on a channel of the unit; so the search wakes when a poll may have made the item.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from celery_perpetual.completions.completion import PENDING, Completion
from celery_perpetual.errors import StoreRefused, StoreUnavailable
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.ledger.key_holders import KeyHolder, holder_of
from celery_perpetual.waiting.steps import Found, Listen, Step, Steps, Watch
from celery_perpetual.waiting.waits import READ_AGAIN_SECONDS, RETRY_SECONDS, TimedWait

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_perpetual.waiting.lookup import Lookup


@dataclass(frozen=True, slots=True)
class ItemKey:
    """One item key of one unit."""

    unit: str
    """Name of the unit."""
    task: str
    tenant: Any
    key: str

    def pending(self, task_id: str = "") -> Completion:
        """The state of an item that has not ended, or of one that no poll has made."""
        where = parse_item_id(task_id)
        return Completion(
            task_id=task_id, task=self.task, status=PENDING, final=False, tenant=self.tenant, key=self.key,
            poll_id=None if where is None else where.poll_id,
        )  # fmt: skip

    def known(self, task_id: str, completion: Completion | None) -> Completion:
        """The completion of the item's task, with task and key also while it has not ended."""
        if completion is None or completion.status == PENDING:
            timed_out = completion is not None and completion.timed_out
            return replace(self.pending(task_id), timed_out=timed_out)
        return completion


class KeyWait(TimedWait):
    """The search for the task of an item key; it finds a task id, or "" at the time-out."""

    def __init__(
        self, lookup: Lookup, item: ItemKey, timeout: float | timedelta, nudge: Callable[[], object] | None
    ) -> None:
        """Nothing is read yet.

        Args:
            nudge: asks for a poll that begins now. An end from before the wait counts only if that poll does not bring
                the key. Without it, such an end is the answer.
        """
        super().__init__(lookup, timeout)
        self._item = item
        self._nudge = nudge
        self._before: str | None = None
        """Task id of the last end before the wait."""
        self._since = 0
        """When the wait began, ms of the store's time."""

    def steps(self) -> Steps[str]:
        """The whole search.

        Raises:
            StoreUnavailable: the store has not answered once.
        """
        first = yield from self._read_holder()
        found = None if first is None else self._task_of(first)
        if found is None and not self.is_late:
            yield Watch([self.lookup.channel(self._item.unit)], self.deadline)
            yield from self._send_nudge()
        while found is None:
            holder = yield from self._read_holder()
            found = None if holder is None else self._task_of(holder)
            if found is None and self.is_late:
                found = ""
            elif found is None:
                yield Listen(self.pause)
        yield Found(found)

    def _task_of(self, holder: KeyHolder) -> str | None:
        """The task to wait for, as far as it is known."""
        if holder.in_flight is not None or holder.last is None:
            return holder.in_flight
        if self._nudge is None or holder.last != self._before or holder.polled_at > self._since:
            return holder.last
        return None

    def _send_nudge(self) -> Generator[Step, Any, None]:
        if self._nudge is not None:
            try:
                yield from self.read(self._nudge)
            except StoreRefused:
                raise
            except StoreUnavailable:  # the next slot brings a poll too
                self.read_again_in(RETRY_SECONDS)

    def _read_holder(self) -> Generator[Step, Any, KeyHolder | None]:
        """The store's record of the key now; None where it does not answer."""
        is_late = self.is_late
        self.read_again_in(READ_AGAIN_SECONDS)
        try:
            now, holder = yield from self.read(self._now_and_holder)
        except StoreRefused:
            raise
        except StoreUnavailable:
            self.read_again_in(RETRY_SECONDS)
            if is_late and not self._since:
                raise
            return None
        if not self._since:
            self._since, self._before = now, holder.last
        return holder

    def _now_and_holder(self) -> tuple[int, KeyHolder]:
        store, item = self.lookup.store, self._item
        return store.now(), holder_of(store, item.unit, item.key)
