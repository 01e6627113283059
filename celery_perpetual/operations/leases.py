"""Leases and parked tasks as an operator sees them, and the exits from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from celery_perpetual import events
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import FAILURE, NEEDS_ATTENTION, REVOKED, UNKNOWN
from celery_perpetual.completions.end import FIRST, TaskEnd
from celery_perpetual.errors import NotSuccessful
from celery_perpetual.leases.execution import leased_execution
from celery_perpetual.leases.scope import announces
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.lease_reports import RUNNING, Lease, Worker, executed, parked
from celery_perpetual.operations.purging import purge
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.commands.leases import (
    first_leases,
    lease_of,
    parked_tasks,
    state_of,
    states_of,
)
from celery_perpetual.store.commands.workers import worker_deadlines
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import to_datetime
from celery_perpetual.waiting.blocking import Waiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.worker.doubt import cast_doubt


class LeaseOperations(Namespace):
    """The part of ``Perpetual`` that is about leases."""

    def leases(self, limit: int = 100) -> list[Lease]:
        """Tasks that are executed right now, oldest first.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        store = self.store
        held, deadlines = first_leases(store, limit), worker_deadlines(store)
        states = states_of(store, [task_id for task_id, _ in held])
        found = [executed(task_id, text, state, deadlines) for (task_id, text), state in zip(held, states, strict=True)]
        return sorted(found, key=lambda lease: lease.started_at)

    def parked(self, limit: int = 100) -> list[Lease]:
        """Tasks that wait for an operator, longest first; :meth:`recover`, :meth:`fail` or :meth:`cancel` them.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return sorted(map(parked, parked_tasks(self.store)), key=lambda lease: lease.parked_at or lease.started_at)[
            :limit
        ]

    def workers(self) -> list[Worker]:
        """Living workers, by name, as they last reported.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        found = []
        for each in self.grants.workers.all():
            info = each.info
            found.append(
                Worker(
                    name=info.get("hostname", each.name), pid=info.get("pid"), pool=info.get("pool"),
                    concurrency=info.get("concurrency"), queues=info.get("queues", []), active=info.get("active", 0),
                    reserved=len(each.tags), leases=each.held,
                    state="stopping" if info.get("stopping") else RUNNING,
                    reported_at=to_datetime(each.reported_at), deadline=to_datetime(each.deadline),
                )
            )  # fmt: skip
        return sorted(found, key=lambda worker: worker.name)

    def lease_token(self) -> int | None:
        """Inside a task: the fencing number of its lease, greater than that of every earlier execution.

        None outside of a task, and where a task runs without a lease.
        """
        execution = leased_execution()
        return None if execution is None else execution.token

    def still_mine(self) -> bool:
        """Inside a task: ask the store whether this execution still holds its lease; False outside of one.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        execution = leased_execution()
        return execution is not None and execution.leased and self.grants.asks(execution)

    def recover(self, task_id: str) -> bool:
        """Let a parked task run again, under its id and with its recoveries counted anew; False if it is not parked.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        keys = self.store.keys
        recovered = script("recover")(
            self.store, completion=keys.completion(task_id), queue=keys.queue(task_id), id=task_id
        )
        return self._sent(bool(recovered))

    def release(self, task_id: str) -> bool:
        """Take the lease of a running task away and send the task again; False if it holds none.

        What the execution that had it still brings is dropped. It counts as no recovery.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        taken = self.grants.release(task_id, "*", "taken", "an operator took it away") != "gone"
        if taken:
            cast_doubt(self.app)
        return self._sent(taken)

    def fail(self, task_id: str, reason: str) -> bool:
        """End a task as failed, parked or not; False if it has ended before, or is unknown.

        The failure is stored in the result backend too, so that ``AsyncResult.get()`` raises.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        error = NotSuccessful(reason)
        with self._last_word(task_id, FAILURE, error) as ended:
            if ended:
                celery_results.store_failure(self.app, None, task_id, error)
        return ended

    def cancel(self, task_id: str) -> bool:
        """End a task as revoked, before it starts, while it runs, or parked; False if it has ended before.

        A pool process that runs it is terminated, as by ``revoke(terminate=True)``; other pools cannot do that, and
        there what it still brings is dropped.

        Raises:
            StoreUnavailable: the store did not answer.
            Exception: what the result backend or the broker raises where it cannot be reached; the task has ended then.
        """
        with self._last_word(task_id, REVOKED, None) as ended:
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
    def _last_word(self, task_id: str, status: str, error: Exception | None) -> Iterator[bool]:
        known = Waiting(Lookup(self.app, self.store), Hub(self.store)).now(task_id)
        if known is not None and (known.final or known.status == UNKNOWN) and known.status != NEEDS_ATTENTION:
            yield False
            return
        name = self._name(task_id)
        end = TaskEnd(
            task_id=task_id, task=name, status=status, exception=error, nonce="*",
            announce=announces(self.app.tasks.get(name or "")),
        )  # fmt: skip
        ended = self.announcer.announce_now(end) == FIRST
        if ended:
            cast_doubt(self.app)
        yield ended

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
