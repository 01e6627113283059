"""The part of ``Perpetual`` that is about ends: ask for them, wait for them, follow them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.leases.annotations import annotate
from celery_perpetual.ledger.ids import id_of
from celery_perpetual.namespace import Namespace
from celery_perpetual.waiting.blocking import Waiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup, pending
from celery_perpetual.waiting.streams import Event, Following, stream, subscribe

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef


class CompletionOperations(Namespace):
    """Ends of tasks."""

    @cached_property
    def _hub(self) -> Hub:
        return Hub(self.store)

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.app, self.store)

    @cached_property
    def _waiting(self) -> Waiting:
        return Waiting(self._lookup, self._hub)

    def completion(self, task_id: TaskRef) -> Completion:
        """How a task ended, as far as it is known now; ``pending`` and ``unknown`` are answers too.

        Reads for at most ``perpetual_store_timeout`` seconds.

        Raises:
            ContractError: the id is none.
            StoreUnavailable: the store did not answer.
        """
        return self._waiting.now(task_id) or pending(id_of(task_id))

    def wait(self, task_id: TaskRef, timeout: float | timedelta) -> Completion:
        """Wait for the end of one task, without polling; at the time-out ``timed_out`` is True.

        The worker that ends the task wakes the waiter within about a millisecond. An id of the form of this package
        that is not on record is ``unknown`` at once; any other id is waited for. Safe to call from any number of
        threads at once.

        Args:
            task_id: of any task.
            timeout: seconds, or a ``timedelta``.

        Raises:
            ContractError: the id or the time-out is none.
            StoreUnavailable: the store has not answered once. How the task ended raises nothing.
        """
        return self._waiting.wait(task_id, timeout)

    def wait_any(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end; the completions of those that have ended by then, by id. Raises as :meth:`wait`."""
        return self._waiting.wait_any(ids, timeout)

    def wait_all(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for all of them; a completion for every id, ``timed_out`` for those that have not ended in time.

        Raises as :meth:`wait`.
        """
        return {completion.task_id: completion for completion in self.as_completed(ids, timeout)}

    def as_completed(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> Iterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``.

        Raises as :meth:`wait`.
        """
        return self._waiting.as_completed(ids, timeout)

    def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
            ContractError: the time-out is none.
            StoreUnavailable: the store has not answered once.
        """
        return self._waiting.wait_batch(poll_id, timeout)

    def annotate(self, **meta: Any) -> None:
        """Inside a task: add facts to its completion (``Completion.meta``); JSON, 8 KiB in all.

        Raises:
            ContractError: no task is running here, or the facts are not JSON or too long.
        """
        annotate(**meta)

    def channel(self, task_id: TaskRef) -> str:
        """The Redis channel on which the end of this task is published."""
        return self.store.keys.channel(id_of(task_id))

    def subscribe(self) -> Iterator[Completion]:
        """Iterate completions as they happen, for ever; ends that happen while no iteration runs are missed.

        Raises:
            StoreUnavailable: the connection was lost; :meth:`stream` misses nothing.
        """
        return subscribe(self.store)

    def stream(
        self, group: str, consumer: str, start: Literal["new", "all"] = "all", *, idle: float = 60.0
    ) -> Iterator[Event]:
        """Iterate events (``completion``, ``poll``, ``leader`` …) at least once, for ever, with a consumer group.

        An event counts as done when the next one is asked for. What a consumer holds for ``idle`` seconds without
        that is given to another one.

        Args:
            start: where a new group begins: ``all`` with the oldest event that the stream still has, ``new`` with
                what happens from this call on. A group that exists goes on where it is.
            idle: seconds, at least 0.05.

        Raises:
            ContractError: group or consumer is no name, start is neither, or idle is no duration.
            StoreUnavailable: the server answered with an error that no outage explains. An outage raises nothing.
        """
        return stream(self.store, Following(group=group, consumer=consumer, start=start, idle=idle))
