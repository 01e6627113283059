"""The exits from leases and from being parked, by which an operator ends or resends tasks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, overload

from celery_perpetual import events
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import FAILURE, REVOKED
from celery_perpetual.completions.end import FIRST, NOT_HELD, UNTIL_ALLOWED, TaskEnd
from celery_perpetual.errors import ContractError
from celery_perpetual.leases.interest import announces
from celery_perpetual.ledger.ids import id_of
from celery_perpetual.namespace import Namespace
from celery_perpetual.operations.endable import can_be_ended, half_ended, operators_error
from celery_perpetual.operations.forcing import Forced, for_each, on_record
from celery_perpetual.operations.purging import purge
from celery_perpetual.operations.replaying import poll_of, replay
from celery_perpetual.polling.outcome import PollOutcome
from celery_perpetual.recovery.resend import Resender
from celery_perpetual.store.commands.leases import lease_of, state_of
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.doubt import cast_doubt

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef
    from celery_perpetual.operations.forcing import Tasks

T = TypeVar("T")

#: The text that Celery's result of a cancelled task has.
CANCELLED = "cancelled"


class ExitOperations(Namespace):
    """The part of ``Perpetual`` by which an operator has the last word on a task.

    Wherever an id is asked for, Celery's ``AsyncResult`` is as good.
    """

    @overload
    def recover(self, task_id: TaskRef, *, reason: str = "") -> bool: ...
    @overload
    def recover(self, task_id: Tasks, *, reason: str = "") -> list[Forced]: ...
    def recover(self, task_id: TaskRef | Tasks, *, reason: str = "") -> bool | list[Forced]:
        """Let a parked task run again, under its id and with its recoveries counted anew; False if it is not parked.

        Args:
            task_id: of one task, or a list of at most 50; of a list the answer is a result each.
            reason: on record with the event ``operator``.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._force("recover", task_id, reason, self._recover)

    @overload
    def release(self, task_id: TaskRef, *, reason: str = "") -> bool: ...
    @overload
    def release(self, task_id: Tasks, *, reason: str = "") -> list[Forced]: ...
    def release(self, task_id: TaskRef | Tasks, *, reason: str = "") -> bool | list[Forced]:
        """Take the lease of a running task away and send the task again; False if it holds none.

        What the execution that had it still brings is dropped. It counts as no recovery.

        Args:
            task_id: of one task, or a list of at most 50; of a list the answer is a result each.
            reason: on record with the event ``operator``.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._force("release", task_id, reason, self._release)

    @overload
    def fail(self, task_id: TaskRef, reason: str, once: bool = False) -> bool: ...
    @overload
    def fail(self, task_id: Tasks, reason: str, once: bool = False) -> list[Forced]: ...
    def fail(self, task_id: TaskRef | Tasks, reason: str, once: bool = False) -> bool | list[Forced]:
        """End a task as failed, parked or not; False if it has ended before, or if nothing is known of it.

        The failure is stored in the result backend too, so that ``AsyncResult.get()`` raises. The key of an item is
        left out of polls until :meth:`~celery_perpetual.Perpetual.allow`, in the same step.

        Args:
            task_id: of an item, or of any task that runs or waits under a lease; or a list of at most 50, of which the
                answer is a result each.
            reason: the text of the failure; also on record with the event ``operator``.
            once: the next poll that finds the row of the item enqueues it again.

        Raises:
            ContractError: the reason is empty.
            StoreUnavailable: the store did not answer.
        """
        if not isinstance(reason, str) or not reason.strip():
            raise ContractError(f"fail: the reason must be a text, which waiters of the task get, got {reason!r}")
        return self._force("fail", task_id, reason, lambda each: self._fail(each, reason, once))

    @overload
    def cancel(self, task_id: TaskRef, once: bool = False, *, reason: str = "") -> bool: ...
    @overload
    def cancel(self, task_id: Tasks, once: bool = False, *, reason: str = "") -> list[Forced]: ...
    def cancel(self, task_id: TaskRef | Tasks, once: bool = False, *, reason: str = "") -> bool | list[Forced]:
        """End a task as revoked, before it starts, while it runs, or parked.

        False if it has ended before, or if nothing is known of it. A task that is no item and waits in a queue is not
        known here; Celery's ``revoke`` is for those. The key of an item is left out of polls until
        :meth:`~celery_perpetual.Perpetual.allow`, in the same step.

        A pool process that runs it is terminated, as by ``revoke(terminate=True)``; other pools cannot do that, and
        there what it still brings is dropped.

        Args:
            task_id: of an item, or of any task that runs or waits under a lease; or a list of at most 50, of which the
                answer is a result each.
            once: the next poll that finds the row of the item enqueues it again.
            reason: on record with the event ``operator``.

        Raises:
            StoreUnavailable: the store did not answer.
            Exception: what the broker raises where it cannot be reached; the task has ended then.
        """
        return self._force("cancel", task_id, reason, lambda each: self._cancel(each, once))

    @overload
    def retry(self, task_id: TaskRef, *, reason: str = "") -> str | None: ...
    @overload
    def retry(self, task_id: Tasks, *, reason: str = "") -> list[Forced]: ...
    def retry(self, task_id: TaskRef | Tasks, *, reason: str = "") -> str | list[Forced] | None:
        """Enqueue an item again that has ended otherwise than by success; its new id, or None if it was not enqueued.

        The new task has the same arguments, options and key, without ETA and expiry, and ``Completion.meta`` has
        ``replay_of``. Its key is allowed, also a parked one. None: its key is in flight, its unit has no room, or a
        poll of the unit is under way.
        An item is retried once: the new task is what may be retried then. A parked task has not ended, so
        :meth:`recover` it.

        Args:
            task_id: of one item, or a list of at most 50; of a list the answer is a result each.
            reason: on record with the event ``operator``.

        Raises:
            NotFound: it is no item, or there is no record of it: it has succeeded, ended more than a day ago, has not
                ended, or was retried before.
            UnknownTask, UnknownUnit: its unit is not there any more.
            StoreUnavailable: the store did not answer.
        """
        return self._force("retry", task_id, reason, self._retry)

    def replay(self, poll_id: str, only_failed: bool = True, *, reason: str = "") -> PollOutcome:
        """Enqueue the items of a batch again that have ended otherwise than by success, as :meth:`retry` does.

        It is a poll of the unit by hand with the trigger ``replay``: the outcome says how many were enqueued, and how
        many were left out because their key is in flight or parked, or for lack of room. ``skipped`` with the gate
        ``busy``: another poll of the unit is under way. Items that were enqueued, or left out as duplicates, are not
        enqueued by the next replay.

        Args:
            poll_id: of the batch.
            only_failed: False adds those that have succeeded, as far as their records are there: until the last item
                of their chunk of 500 has ended.
            reason: on record with the event ``operator``.

        Raises:
            NotFound: the store does not know the batch, or has no record of such an item any more.
            UnknownTask, UnknownUnit: its unit is not there any more.
            StoreUnavailable: the store did not answer.
        """
        outcome = replay(self, poll_id, None, only_failed=only_failed)
        if outcome.count:
            on_record(self.store, "replay", reason, list(outcome.task_ids), poll_id=poll_id)
        return outcome

    def purge(self, queue: str, *, progress: Callable[[int], object] | None = None) -> int:
        """Take every message out of a queue and end its tasks as revoked; returns how many messages there were.

        A task that a worker runs just now, of which the queue had a second message, goes on.

        Args:
            queue: its name.
            progress: called with the number of messages after each hundred.

        Raises:
            NotFound: neither the app nor the broker knows such a queue.
            StoreUnavailable: the store did not answer; what has been taken out by then is missed, and sent again.
        """
        return purge(self, queue, progress)

    def _force(self, verb: str, tasks: TaskRef | Tasks, reason: str, act: Callable[[str], T]) -> T | list[Forced]:
        """Do it for one task or for each of several, and put on record what was done."""
        if isinstance(tasks, list | tuple):
            results = for_each(tasks, act)
            if done := [each.task_id for each in results if each.done]:
                on_record(self.store, verb, reason, done)
            return results
        answer = act(id_of(tasks))
        if answer:
            on_record(self.store, verb, reason, [id_of(tasks)])
        return answer

    def _recover(self, task_id: str) -> bool:
        keys = self.store.keys
        recovered = script("recover")(
            self.store, completion=keys.completion(task_id), queue=keys.queue(task_id), id=task_id
        )
        return self._sent(bool(recovered))

    def _release(self, task_id: str) -> bool:
        taken = self.grants.release(task_id, "*", "taken", "an operator took it away") != "gone"
        if taken:
            cast_doubt(self.app)
        return self._sent(taken)

    def _fail(self, task_id: str, reason: str, once: bool) -> bool:
        def follow(said: str) -> None:
            celery_results.store_failure(self.app, None, task_id, operators_error(FAILURE, said))

        return self._last_word(task_id, FAILURE, reason, follow, once=once)

    def _cancel(self, task_id: str, once: bool) -> bool:
        def follow(said: str) -> None:
            celery_results.store_revoked(self.app, task_id, said)
            self.app.control.revoke(task_id, terminate=True)

        return self._last_word(task_id, REVOKED, CANCELLED, follow, once=once)

    def _retry(self, task_id: str) -> str | None:
        outcome = replay(self, poll_of(task_id), [task_id], only_failed=True)
        return outcome.task_ids[0] if outcome.count else None

    def _last_word(
        self, task_id: str, status: str, reason: str, follow: Callable[[str], object], *, once: bool
    ) -> bool:
        """End a task, and do what follows; False where it has ended before.

        Where an operator has ended it in this way and the process has died in between, only the latter is done, with
        the reason of that time.
        """
        if not can_be_ended(self, task_id):
            if (before := half_ended(self, task_id, status)) and before.error:
                follow(before.error["message"])
            return False
        name = self._name(task_id)
        end = TaskEnd(
            task_id=task_id, task=name, status=status, exception=operators_error(status, reason), nonce="*",
            announce=announces(self.app.tasks.get(name or "")), hold=NOT_HELD if once else UNTIL_ALLOWED,
        )  # fmt: skip
        ended = self.announcer.announce_now(end) == FIRST
        if ended:
            cast_doubt(self.app)
            follow(reason)
        return ended

    def _name(self, task_id: str) -> str | None:
        """Name of the task, as far as anything of it is stored."""
        known = state_of(self.store, task_id) or lease_of(self.store, task_id)
        return known.task or None if known else self._resender.name(task_id)

    @cached_property
    def _resender(self) -> Resender:
        return Resender(self.app, self.store, broker_is_redis=self.grants.broker_is_redis)

    def _sent(self, listed: bool) -> bool:
        """Send what is on the list at once; what cannot be sent now, the leader sends."""
        if listed:
            try:
                self._resender.send_all()
            except Exception as error:
                emit(events.RESEND_FAILED, error=error)
        return listed
