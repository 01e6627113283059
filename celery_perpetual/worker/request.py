"""What the worker's main process does for a delivery: it names it, and it speaks for a child that cannot."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

from celery.exceptions import TimeLimitExceeded, WorkerLostError
from celery.utils.imports import symbol_by_name
from celery.worker import state
from kombu.transport.redis import Channel

from celery_perpetual import events
from celery_perpetual.broker.message_copy import from_message
from celery_perpetual.broker.unacked import acknowledge, forget, put_back
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import LOST, SUCCESS
from celery_perpetual.errors import TaskLost
from celery_perpetual.leases.execution import AT_END, AT_START, COPY, NONCE, STRUCK, TAG, Execution, acting_for
from celery_perpetual.leases.scope import standing
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.propagation import goes_back
from celery_perpetual.worker.signals import end

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants


#: What comes behind the mixin is Celery's request class, or the user's own.
_Request: Any = object


#: Every delivery that this process has received and that anybody refers to, by its nonce. Celery's own table is by
#: task id, so a second delivery of a task would hide the first one.
_received: WeakValueDictionary[str, Any] = WeakValueDictionary()


def at_hand() -> list[Any]:
    """The deliveries that this worker has received and not settled, and those that it runs."""
    # The list of references is made in one step; iterating would meet additions of the main thread.
    found = (reference() for reference in _received.valuerefs())
    return [each for each in found if each is not None and (not each.acknowledged or each in state.active_requests)]


class Leased(_Request):  # type: ignore[misc]
    """Mixin for a request class: this one knows its lease."""

    perpetual = True
    acknowledged: bool
    _is_lost = False
    """Whether the process that ran it is gone: what becomes of its message is another question then."""

    def __init__(self, message: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(message, *args, **kwargs)
        perpetual: Any = getattr(self._app, "perpetual", None)
        request = self._request_dict
        self._leases: Grants | None = None
        self._struck = ""
        """With which step a script strikes the message off the broker's books; "" where it is acknowledged as ever."""
        if perpetual is None or not perpetual.grants.guards(self._task, self.id, request):
            return
        self._leases = perpetual.grants
        request[NONCE] = uuid4().hex
        _received[request[NONCE]] = self
        request[TAG] = str(message.delivery_tag or "")
        for name in (COPY, STRUCK):
            request.pop(name, None)
        if self._leases.strikes and isinstance(getattr(message, "channel", None), Channel):
            self._struck = request[STRUCK] = AT_END if self._task.acks_late else AT_START
        # The ledger keeps what is needed to build the first message of an item, and nothing else.
        if item_address(self.id) is None or request.get("retries") or request.get("replaced_task_nesting"):
            request[COPY] = from_message(message).to_json()
        self._leases.on_news()

    def _execution(self) -> Execution | None:
        if self._leases is None:
            return None
        request = self._request_dict
        return Execution(
            task_id=self.id, nonce=request[NONCE], leased=bool(self.time_start),
            tag=request[TAG] if STRUCK in request else "",
        )  # fmt: skip

    def acknowledge(self) -> None:
        """As Celery's, but without a call where a script strikes the message off: at the start, or with a success."""
        if self._struck and not self.acknowledged:
            forget(self._message)
            self.acknowledged = True
        else:
            super().acknowledge()
        self._settled()

    def _acknowledge_as_ever(self) -> None:
        """It does not end as a success, so no script may have struck its message off."""
        if self._struck == AT_START and self.acknowledged and not self._is_lost:
            # Where it got no lease, because the store was away, nobody has.
            acknowledge(self._message, self._connection_errors)
        self._struck = ""

    def reject(self, requeue: bool = False) -> None:
        self._acknowledge_as_ever()
        super().reject(requeue)
        self._settled()

    def _settled(self) -> None:
        if self._leases is not None:
            self._leases.on_news()

    def on_retry(self, exc_info: Any) -> Any:
        self._acknowledge_as_ever()
        return super().on_retry(exc_info)

    def on_timeout(self, soft: Any, timeout: Any) -> Any:
        if not soft:
            self._acknowledge_as_ever()
        with acting_for(self._execution()):
            reply = super().on_timeout(soft, timeout)
        if not soft and self._leases is not None and goes_back(self.task, TimeLimitExceeded()):
            self._leases.try_to_release(self.id, self._request_dict[NONCE], "back")
        return reply

    def _announce_revoked(self, *args: Any, **kwargs: Any) -> Any:
        self._acknowledge_as_ever()
        with acting_for(self._execution()):
            return super()._announce_revoked(*args, **kwargs)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        self._is_lost = isinstance(_exception(exc_info), WorkerLostError)
        self._acknowledge_as_ever()
        with acting_for(self._execution()):
            # Celery 5.7 can retry it itself, if the task asks for that.
            own = getattr(self.task, "retry_on_worker_lost", None)
            if self._leases is not None and self._is_lost and not own:
                return _lost(self, self._leases, exc_info)
            return super().on_failure(exc_info, send_failed_event, return_ok)


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


def _lost(request: Any, leases: Grants, exc_info: Any) -> None:
    """The child that ran the task is gone: give the lease back first, then settle the message."""
    nonce, app = request._request_dict[NONCE], request._app  # noqa: SLF001
    if celery_results.is_success(app, request.task, request.id):
        # It died after Celery had stored its success, perhaps before it could tell us.
        state.task_ready(request, successful=True)
        told = bool(standing(app, request.task, request.id, request.request_dict))
        end(app, request.task, request.id, SUCCESS, told=told, worker=request.hostname)
        _acknowledge(request)
        return
    verdict = leases.try_to_release(request.id, nonce, "lost", f"a process of the pool is gone: {_exception(exc_info)}")
    emit(events.PROCESS_LOST, task_id=request.id, verdict=verdict)
    state.task_ready(request)
    if verdict == "fail":
        error = TaskLost(f"task {request.id} is lost: {_exception(exc_info)}")
        celery_results.store_failure(app, request.task, request.id, error, request._context)  # noqa: SLF001
        with acting_for(Execution(task_id=request.id, nonce="*", leased=False)):
            end(app, request.task, request.id, LOST, exception=error, worker=request.hostname)
    if verdict == "gone" and request.request_dict.get(STRUCK) == AT_START:
        # It died before it asked for its lease, and Kombu has forgotten the message already.
        put_back(request.message, request.connection_errors)
    if request.task.acks_late and (verdict == "gone" or (verdict == "resend" and not leases.broker_is_redis)):
        # The guard sorts out what comes twice; RabbitMQ puts it where it was.
        request.reject(requeue=True)
        return
    _acknowledge(request)
    if leases.on_lost is not None:
        leases.on_lost()


def _acknowledge(request: Any) -> None:
    if request.task.acks_late:
        request.acknowledge()
