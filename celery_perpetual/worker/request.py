"""The main process's part of a delivery: it names the delivery, and speaks for a child that cannot."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from celery.exceptions import Reject, TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state
from kombu.transport.redis import Channel

from celery_perpetual import events
from celery_perpetual.broker.message_copy import from_message
from celery_perpetual.broker.unacked import acknowledge, forget, put_back
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.chords import count_in_chord
from celery_perpetual.completions.completion import LOST, REJECTED, SUCCESS
from celery_perpetual.errors import TaskLost
from celery_perpetual.leases.execution import AT_END, AT_START, DELIVERY, Execution, HeldBack, acting_for
from celery_perpetual.leases.interest import Interest, has_own_strategy, interest_in
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.telemetry import emit
from celery_perpetual.worker import deliveries
from celery_perpetual.worker.how_it_ended import PARENT_ANNOUNCES
from celery_perpetual.worker.own_strategy import announce_outside
from celery_perpetual.worker.propagation import goes_back
from celery_perpetual.worker.signals import announce_end
from celery_perpetual.worker.stopping import is_stopping

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants


#: Errors for which the main process ends a task whose body ran elsewhere, and no other process does.
ENDED_HERE = (TimeLimitExceeded, *((SystemExit, KeyboardInterrupt, Reject) if PARENT_ANNOUNCES else ()))

#: Behind the mixin comes Celery's request class, or the user's own.
_Request: Any = object


class Leased(_Request):  # type: ignore[misc]
    """Mixin for a request class: this one knows its execution."""

    perpetual = True
    acknowledged: bool
    _ends_otherwise = False
    """Whether it does not end as a success: Celery's own code acknowledges its message then."""
    is_held = False
    """Whether its task waits for the store, outside of the pool."""
    times_held = 0
    _is_lost = False
    """Whether the process that ran it is gone: the verdict on the task then says what to do with its message."""
    _lacks_lease = False
    """Whether it is known to run without a lease."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        request = self._request_dict
        request.pop(DELIVERY, None)
        self.perpetual_execution: Execution | None = None
        """None where the task needs no lease."""
        self.perpetual_tag = ""
        """Delivery tag, where the heartbeat reports it."""
        interest = interest_in(self._app, self._task, self.id, request)
        needs_lease = Interest.LEASE in interest
        if not needs_lease and not (interest and item_address(self.id)):
            return
        self._leases: Grants = self._app.perpetual.grants
        self.perpetual_tag = str(message.delivery_tag or "")
        self._nonce = token_hex(16)
        deliveries.enter(self._nonce, self)
        self._leases.on_news()
        if not needs_lease:
            return
        execution = Execution(task_id=self.id, nonce=self._nonce, tag=self.perpetual_tag, interest=interest)
        if self._leases.acknowledges and isinstance(getattr(message, "channel", None), Channel):
            execution.acknowledged_by = AT_END if self._task.acks_late else AT_START
        # The ledger keeps what is needed to build the first message of an item, and nothing else.
        if item_address(self.id) is None or request.get("retries") or request.get("replaced_task_nesting"):
            execution.copy = from_message(message).to_json()
        request[DELIVERY] = execution.delivery
        self.perpetual_execution = execution

    def be_patient(self) -> None:
        """Let its task ask for its lease longer than usual, from the next time on that the pool gets it."""
        execution = self.perpetual_execution
        if execution is not None:
            execution.is_patient = True
            self._request_dict[DELIVERY] = execution.delivery

    def _spoken_for(self) -> Execution | None:
        """The execution, as far as this process knows it."""
        execution = self.perpetual_execution
        if execution is not None:
            execution.leased = bool(self.time_start) and not self._lacks_lease
        return execution

    def acknowledge(self) -> None:
        """As Celery's, but without a call where a script acknowledges the message: at the start, or with a success."""
        execution = self.perpetual_execution
        if self._announces_outside(SUCCESS):
            super().acknowledge()
        elif execution is not None and execution.acknowledged_by and not self.acknowledged and not self._ends_otherwise:
            forget(self._message)
            self.acknowledged = True
        else:
            super().acknowledge()
        self._report()

    def _leave_to_celery(self) -> None:
        """It does not end as a success, so Celery acknowledges its message: a script may not have done so."""
        execution = self.perpetual_execution
        if execution is None or self._ends_otherwise:
            return
        if execution.acknowledged_by == AT_START and self.acknowledged and not self._is_lost:
            # Where it got no lease, because the store was away, no script has.
            acknowledge(self._message, self._connection_errors)
        self._ends_otherwise = True

    def reject(self, requeue: bool = False) -> None:
        self._leave_to_celery()
        if not requeue:
            self._announces_outside(REJECTED)
        super().reject(requeue)
        self._report()

    def give_back(self) -> None:
        """Put the message where it was; on Redis kombu's own requeue is the end of the queue."""
        if not isinstance(getattr(self._message, "channel", None), Channel):
            self.reject(requeue=True)
            return
        put_back(self._message, self._connection_errors)
        forget(self._message)
        self.acknowledged = True
        self._report()

    def _announces_outside(self, status: str) -> bool:
        """Whether its task's own strategy has had it run outside of the pool's usual way; its end is announced then."""
        is_outside = not self.time_start and not self.acknowledged and has_own_strategy(self._task)
        if is_outside:
            announce_outside(self._app, self._task, self.id, self._request_dict, status, worker=self.hostname)
        return is_outside

    def _report(self) -> None:
        if self.perpetual_tag:
            self._leases.on_news()

    def cancel(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's, after the lease is released: what is cancelled is neither acknowledged nor ended here.

        A worker that stops releases everything at its very end.
        """
        execution, stops = self.perpetual_execution, is_stopping()
        if execution is not None and not stops:
            verdict = self._leases.try_to_release(self.id, execution.nonce, "stopped", "its worker has cancelled it")
            emit(events.EXECUTION_CANCELLED, task_id=self.id, verdict=verdict)
        reply = super().cancel(*args, **kwargs)
        if self.perpetual_tag and not stops:
            deliveries.remove(self._nonce)
            self._leases.resend_soon()
            self._report()
        return reply

    def on_retry(self, exc_info: Any) -> Any:
        self._leave_to_celery()
        return super().on_retry(exc_info)

    def on_timeout(self, soft: Any, timeout: Any) -> Any:
        execution = self.perpetual_execution
        if not soft:
            self._leave_to_celery()
            self._note_successor(TimeLimitExceeded())
        with acting_for(self._spoken_for()):
            reply = super().on_timeout(soft, timeout)
        if not soft and execution is not None and goes_back(self.task, TimeLimitExceeded()):
            self._leases.try_to_release(self.id, execution.nonce, "back")
        return reply

    def _note_successor(self, error: Any) -> None:
        """The main process is to end its task: where it has handed its id on before, that is not the end."""
        execution = self._spoken_for()
        if execution is None or self._leases.is_away:
            return
        if isinstance(error, TimeLimitExceeded):  # else the process that ran the body has released it
            verdict = self._leases.try_to_release(self.id, execution.nonce, "overrun")
            if verdict == "succeeded":
                self._leases.resend_soon()
        if self._leases.is_away or self._leases.holds(execution):
            return
        # Where the store was away at its start, the task is still to be retried by this very run, and by no later one.
        self._lacks_lease = isinstance(error, TimeLimitExceeded) and self._leases.awaits(self.id, self._request_dict)
        if not self._lacks_lease:
            execution.successor = "wait"

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> Any:
        self._leave_to_celery()
        with acting_for(self._spoken_for()):
            return super()._announce_revoked(*args, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        if isinstance(_exception(exc_info), HeldBack) and self._leases.on_held is not None:
            return self._hold(self._leases.on_held)
        self._is_lost = isinstance(_exception(exc_info), WorkerLostError)
        self._leave_to_celery()
        if isinstance(_exception(exc_info), ENDED_HERE):
            self._note_successor(_exception(exc_info))
        with acting_for(self._spoken_for()):
            # Celery 5.7 can retry it itself, if the task asks for that.
            own = getattr(self.task, "retry_on_worker_lost", None)
            if self.perpetual_execution is not None and self._is_lost and not own:
                return _lost(self, self.perpetual_execution, self._leases, exc_info)
            return super().on_failure(exc_info, send_failed_event, return_ok)

    def _hold(self, hold: Callable[[Any], object]) -> None:
        """Its body has not begun: as if the pool had not had it yet."""
        self.time_start = self.worker_pid = self._apply_result = None
        state.task_ready(self)
        hold(self)


@cache
def _subclass(base: Any) -> Any:
    return type("LeasedRequest", (Leased, base), {"__doc__": base.__doc__})


def leased_request(base: Any) -> Any:
    """A request class over ``base``, be that Celery's or the user's own."""
    cls: Any = symbol_by_name(base)
    return cls if getattr(cls, "perpetual", False) else _subclass(cls)


def _exception(exc_info: Any) -> Any:
    """Billiard wraps what comes out of another process."""
    return getattr(exc_info.exception, "exc", exc_info.exception)


def _lost(request: Any, execution: Execution, leases: Grants, exc_info: Any) -> None:
    """The child that ran the task is gone: release the lease first, then acknowledge the message."""
    app = request._app  # noqa: SLF001
    context = request._context  # noqa: SLF001
    if celery_results.is_success(app, request.task, request.id) and count_in_chord(app, request.task, context):
        # It died after Celery had stored its success, perhaps before it was counted or announced.
        state.task_ready(request, successful=True)
        interest = interest_in(app, request.task, request.id, request.request_dict)
        announce_end(app, request.task, request.id, SUCCESS, interest, worker=request.hostname)
        _acknowledge(request)
        return
    reason = f"a process of the pool is gone: {_exception(exc_info)}"
    verdict = leases.try_to_release(request.id, execution.nonce, "lost", reason)
    emit(events.PROCESS_LOST, task_id=request.id, verdict=verdict)
    state.task_ready(request)
    if verdict == "fail":
        execution.is_over = True  # the end is not announced as its own: what the backend cannot store, the store keeps
        error = TaskLost(f"task {request.id} is lost: {_exception(exc_info)}")
        celery_results.store_failure(app, request.task, request.id, error, context)
        with acting_for(Execution(task_id=request.id, nonce="*")):
            announce_end(
                app, request.task, request.id, LOST, Interest.ANNOUNCE, exception=error, worker=request.hostname
            )
    if verdict == "gone" and execution.acknowledged_by == AT_START:
        # It died before it asked for its lease, and Kombu has forgotten the message already.
        put_back(request.message, request.connection_errors)
    if request.task.acks_late and (verdict == "gone" or (verdict == "resend" and not leases.broker_is_redis)):
        # The guard sorts out what comes twice.
        request.give_back()
        return
    _acknowledge(request)
    leases.resend_soon()


def _acknowledge(request: Any) -> None:
    if request.task.acks_late:
        request.acknowledge()
