"""The exits from leases and from being parked, by which an operator ends or resends tasks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import FAILURE, NEEDS_ATTENTION, REVOKED, UNKNOWN
from celery_perpetual.completions.end import FIRST, NOT_HELD, UNTIL_ALLOWED, TaskEnd
from celery_perpetual.errors import NotSuccessful
from celery_perpetual.leases.interest import announces
from celery_perpetual.ledger.ids import id_of, item_address
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.purging import purge
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.commands.leases import is_known, lease_of, state_of
from celery_perpetual.store.commands.records import are_open
from celery_perpetual.store.commands.workers import living_workers
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.waiting.blocking import Waiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.worker.doubt import cast_doubt

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef


class ExitOperations(Namespace):
    """The part of ``Perpetual`` by which an operator has the last word on a task.

    Wherever an id is asked for, Celery's ``AsyncResult`` is as good.
    """

    def recover(self, task_id: TaskRef) -> bool:
        """Let a parked task run again, under its id and with its recoveries counted anew; False if it is not parked.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        keys, task_id = self.store.keys, id_of(task_id)
        recovered = script("recover")(
            self.store, completion=keys.completion(task_id), queue=keys.queue(task_id), id=task_id
        )
        return self._sent(bool(recovered))

    def release(self, task_id: TaskRef) -> bool:
        """Take the lease of a running task away and send the task again; False if it holds none.

        What the execution that had it still brings is dropped. It counts as no recovery.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        taken = self.grants.release(id_of(task_id), "*", "taken", "an operator took it away") != "gone"
        if taken:
            cast_doubt(self.app)
        return self._sent(taken)

    def fail(self, task_id: TaskRef, reason: str, once: bool = False) -> bool:
        """End a task as failed, parked or not; False if it has ended before, or if nothing is known of it.

        The failure is stored in the result backend too, so that ``AsyncResult.get()`` raises. The key of an item is
        left out of polls until :meth:`~celery_perpetual.Perpetual.allow`, in the same step.

        Args:
            task_id: of an item, or of any task that runs or waits under a lease.
            reason: the text of the failure.
            once: the next poll that finds the row of the item enqueues it again.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        task_id, error = id_of(task_id), NotSuccessful(reason)
        with self._last_word(task_id, FAILURE, error, once=once) as ended:
            if ended:
                celery_results.store_failure(self.app, None, task_id, error)
        return ended

    def cancel(self, task_id: TaskRef, once: bool = False) -> bool:
        """End a task as revoked, before it starts, while it runs, or parked.

        False if it has ended before, or if nothing is known of it. A task that is no item and waits in a queue is not
        known here; Celery's ``revoke`` is for those. The key of an item is left out of polls until
        :meth:`~celery_perpetual.Perpetual.allow`, in the same step.

        A pool process that runs it is terminated, as by ``revoke(terminate=True)``; other pools cannot do that, and
        there what it still brings is dropped.

        Args:
            task_id: of an item, or of any task that runs or waits under a lease.
            once: the next poll that finds the row of the item enqueues it again.

        Raises:
            StoreUnavailable: the store did not answer.
            Exception: what the result backend or the broker raises where it cannot be reached; the task has ended then.
        """
        task_id = id_of(task_id)
        with self._last_word(task_id, REVOKED, None, once=once) as ended:
            if ended:
                celery_results.store_revoked(self.app, task_id, "cancelled")
                self.app.control.revoke(task_id, terminate=True)
        return ended

    def purge(self, queue: str) -> int:
        """Take every message out of a queue and end its tasks as revoked; returns how many messages there were.

        A task that a worker runs just now, of which the queue had a second message, goes on.

        Raises:
            NotFound: neither the app nor the broker knows such a queue.
            StoreUnavailable: the store did not answer; what has been taken out by then is missed, and sent again.
        """
        return purge(self, queue)

    @contextmanager
    def _last_word(self, task_id: str, status: str, error: Exception | None, *, once: bool) -> Iterator[bool]:
        known = Waiting(Lookup(self.app, self.store), Hub(self.store)).now(task_id)
        has_ended = known is not None and (known.final or known.status == UNKNOWN) and known.status != NEEDS_ATTENTION
        if has_ended or not self._is_known(task_id):
            yield False
            return
        name = self._name(task_id)
        end = TaskEnd(
            task_id=task_id, task=name, status=status, exception=error, nonce="*",
            announce=announces(self.app.tasks.get(name or "")), hold=NOT_HELD if once else UNTIL_ALLOWED,
        )  # fmt: skip
        ended = self.announcer.announce_now(end) == FIRST
        if ended:
            cast_doubt(self.app)
        yield ended

    def _is_known(self, task_id: str) -> bool:
        """Whether there is a task of this id, as far as anything of it is stored."""
        where = item_address(task_id)
        return (
            (where is not None and are_open(self.store, [where.place])[0])
            or is_known(self.store, task_id)
            or any(task_id in worker.tags.values() for worker in living_workers(self.store))
        )

    def _name(self, task_id: str) -> str | None:
        """Name of the task, as far as anything of it is stored."""
        known = state_of(self.store, task_id) or lease_of(self.store, task_id)
        return known.task or None if known else self._resender.name(task_id)

    @cached_property
    def _resender(self) -> Resender:
        grants = self.grants
        return Resender(self.app, self.store, broker_is_redis=grants.broker_is_redis)

    def _sent(self, listed: bool) -> bool:
        """Send what is on the list at once; what cannot be sent now, the leader sends."""
        if listed:
            try:
                self._resender.send_all()
            except Exception as error:
                emit(events.RESEND_FAILED, error=error)
        return listed
