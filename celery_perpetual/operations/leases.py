"""Leases and parked tasks as an operator sees them, and the exits from them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from celery_perpetual import events
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import FAILURE, NEEDS_ATTENTION, REVOKED, UNKNOWN
from celery_perpetual.completions.end import FIRST, TaskEnd
from celery_perpetual.errors import NotFound, NotSuccessful
from celery_perpetual.leases.execution import leased_execution
from celery_perpetual.leases.scope import Interest, announces, interest_by
from celery_perpetual.namespace import Namespace
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.commands.leases import (
    LeaseText,
    StateText,
    first_leases,
    lease_of,
    parked_tasks,
    state_of,
    states_of,
)
from celery_perpetual.store.commands.workers import worker_deadlines
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime
from celery_perpetual.waiting.blocking import Waiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.worker.doubt import cast_doubt

RUNNING, PARKED = "running", "parked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """A task that is executed, or that is parked. Times are aware datetimes of the store's clock."""

    task_id: str
    task: str | None
    worker: str
    """Name of the worker that runs it, or ran it last."""
    token: int
    """Fencing number of the lease; only grows."""
    attempt: int
    recoveries: int
    started_at: datetime
    deadline: datetime | None
    """When its worker counts as dead, unless it reports before; None for a parked one."""
    state: str
    """``running`` or ``parked``."""
    reason: str | None = None
    parked_at: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        times = {name: getattr(self, name) for name in ("started_at", "deadline", "parked_at")}
        return {
            "task_id": self.task_id, "task": self.task, "worker": self.worker, "token": self.token,
            "attempt": self.attempt, "recoveries": self.recoveries, "state": self.state, "reason": self.reason,
            **{name: None if at is None else format_time(at) for name, at in times.items()},
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A living worker, as it last reported."""

    name: str
    pid: int | None
    pool: str | None
    concurrency: int | None
    queues: list[str]
    active: int
    """Tasks that it runs."""
    reserved: int
    """Messages of guarded tasks that it has received and not finished, the running ones included."""
    leases: int
    """Leases that it holds."""
    state: str
    """``running`` or ``stopping``."""
    reported_at: datetime
    deadline: datetime

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = {name: getattr(self, name) for name in self.__slots__}
        return values | {name: format_time(values[name]) for name in ("reported_at", "deadline")}


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
        found = [_lease(task_id, text, state, deadlines) for (task_id, text), state in zip(held, states, strict=True)]
        return sorted(found, key=lambda lease: lease.started_at)

    def parked(self, limit: int = 100) -> list[Lease]:
        """Tasks that wait for an operator, longest first; :meth:`recover`, :meth:`fail` or :meth:`cancel` them.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return sorted(map(_parked, parked_tasks(self.store)), key=lambda lease: lease.parked_at or lease.started_at)[
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
        """Let a parked task run again, under its id and with its recoveries counted anew; False if it is not parked."""
        keys = self.store.keys
        recovered = script("recover")(
            self.store, completion=keys.completion(task_id), queue=keys.queue(task_id), id=task_id
        )
        return self._sent(bool(recovered))

    def release(self, task_id: str) -> bool:
        """Take the lease of a running task away and send the task again; False if it holds none.

        What the execution that had it still brings is dropped. It counts as no recovery.
        """
        taken = self.grants.release(task_id, "*", "taken", "an operator took it away") != "gone"
        if taken:
            cast_doubt(self.app)
        return self._sent(taken)

    def fail(self, task_id: str, reason: str) -> bool:
        """End a task as failed, parked or not; False if it has ended before, or is unknown.

        The failure is stored in the result backend too, so that ``AsyncResult.get()`` raises.
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
        count, is_known = 0, queue in self.app.amqp.queues
        with self.app.connection_for_write() as connection:
            bound = self.app.amqp.queues[queue](connection.default_channel)
            if not is_known:
                try:
                    bound.queue_declare(passive=True)
                except connection.channel_errors as error:
                    known = ", ".join(sorted(name for name in self.app.amqp.queues if name != queue))
                    raise NotFound(
                        f"queue {queue!r} was not purged: this app does not know it; it knows {known}"
                    ) from error
            while (message := bound.get(no_ack=True)) is not None:
                count += 1
                headers = message.headers or {}
                task_id, name = str(headers.get("id")), str(headers.get("task"))
                task = self.app.tasks.get(name)
                if Interest.LEASE in interest_by(self.settings, task, task_id, headers):
                    revoked = TaskEnd(task_id=task_id, task=name, status=REVOKED, announce=announces(task))
                    # A task that runs, or has ended, loses one more copy of its message and nothing else.
                    if self.announcer.announce_now(revoked) == FIRST:
                        celery_results.store_revoked(self.app, task_id, "purged")
        return count

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


def _lease(task_id: str, lease: LeaseText, state: StateText | None, deadlines: dict[str, int]) -> Lease:
    deadline = deadlines.get(lease.worker)
    return Lease(
        task_id=task_id,
        task=lease.task,
        worker=lease.worker.partition("#")[0],
        token=lease.token,
        attempt=lease.retries + 1,
        recoveries=0 if state is None else state.recoveries,
        started_at=to_datetime(lease.started_at),
        deadline=None if deadline is None else to_datetime(deadline),
        state=RUNNING,
    )


def _parked(values: dict[str, Any]) -> Lease:
    return Lease(
        task_id=values["task_id"],
        task=values["task"],
        worker=values["worker"].partition("#")[0],
        token=values["token"],
        attempt=values["attempt"],
        recoveries=values["recoveries"],
        started_at=to_datetime(int(float(values["started_at"]))),
        deadline=None,
        state=PARKED,
        reason=values["reason"],
        parked_at=to_datetime(int(values["parked_at"])),
    )
