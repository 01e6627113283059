"""The guard: which execution may run, before it runs, and which may end, before Celery believes it.

Celery runs a task by a function that it builds for it, its tracer. Every tracer is wrapped when it is built, in every
process, so the lease is asked for before signals, hooks and the state STARTED. A task that needs no lease costs one
look-up in a dict.

The body is wrapped too: an execution that may have lost its lease asks once more before Celery stores a result, sends
callbacks or counts a chord; a retry and a replacement ask before they send a message that would supersede the holder.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import states
from celery.app import trace
from celery.app.task import Task
from celery.app.trace import TraceInfo, trace_ok_t
from celery.exceptions import Reject
from celery.worker.consumer import consumer

from celery_perpetual import events
from celery_perpetual.completions.completion import IGNORED
from celery_perpetual.leases.execution import DELIVERY, Execution, HeldBack, LeaseLost, enter, execution_of, leave
from celery_perpetual.leases.grants import HELD
from celery_perpetual.leases.interest import BUILT_IN
from celery_perpetual.tasks.task import HEADER, HEADER_VALUE
from celery_perpetual.telemetry import emit
from celery_perpetual.worker import successor
from celery_perpetual.worker.classified_retry import retry_by_class
from celery_perpetual.worker.early_success import announce_returned
from celery_perpetual.worker.follow_ups import name_follow_ups
from celery_perpetual.worker.how_it_ended import goes_on_by_hand, reason_of, stops_what_waits
from celery_perpetual.worker.later_release import release_or_keep
from celery_perpetual.worker.propagation import end_rest

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants


#: The mark of a class whose body is wrapped.
WRAPPED = "_perpetual_body"


def watch_tracers() -> None:
    """Wrap the building of tracers, retries and replacements; once per process."""
    receiving: Any = consumer
    if getattr(receiving.build_tracer, "perpetual", False):
        return  # others may have wrapped the one in Celery's module of tracers meanwhile
    build_tracer = trace.build_tracer
    retry, replace = Task.retry, Task.replace

    @wraps(build_tracer)
    def building(
        name: str, task: Any, loader: Any = None, hostname: Any = None, store_errors: bool = True,
        Info: Any = TraceInfo, eager: bool = False, **options: Any,  # noqa: N803  # as Celery calls it
    ) -> Any:  # fmt: skip
        is_guarded = not eager and getattr(task.app, "perpetual", None) is not None and not name.startswith(BUILT_IN)
        if is_guarded:
            _wrap_body(type(task))  # first: the tracer asks only once what the body is
        tracer = build_tracer(name, task, loader, hostname, store_errors, Info, eager, **options)
        return _guarded(task, tracer) if is_guarded else tracer

    @wraps(retry)
    def retrying(self: Any, *args: Any, **kwargs: Any) -> Any:
        execution = _leased(self)
        if execution is not None:
            _must_hold(self, execution)
            if "headers" in kwargs:  # in place of those of its message
                kwargs["headers"] = {**(kwargs["headers"] or {}), HEADER: HEADER_VALUE}
        with successor.handing_on(self, "wait"):
            return successor.retry_or_leave(retry, self, execution, *args, **kwargs)

    @wraps(replace)
    def replacing(self: Any, sig: Any) -> Any:
        execution = _leased(self)
        if execution is not None:
            _must_hold(self, execution)
            sig = successor.ends_in_one_task(self.app, sig)
            # No other message than that with the original id keeps the guard.
            successor.inherit(self.request, successor.last_task(sig))
        with successor.handing_on(self, "delegated", is_one_message=successor.is_one_message(sig)):
            return successor.replace_or_leave(replace, self, execution, sig)

    @wraps(build_tracer)
    def building_latest(*args: Any, **kwargs: Any) -> Any:
        # Celery's consumer has its own name for it, bound when its module is imported, which happens here and now: what
        # others (Sentry) put around the one in the module of tracers later must count there too.
        return trace.build_tracer(*args, **kwargs)

    building_latest.perpetual = True  # type: ignore[attr-defined]
    trace.build_tracer = building  # type: ignore[assignment]
    receiving.build_tracer = building_latest
    Task.retry, Task.replace = retrying, replacing  # type: ignore[method-assign]
    successor.connect()


def _wrap_body(cls: Any) -> None:
    if WRAPPED in cls.__dict__:
        return
    original = cls.__call__
    # Where no other code has replaced ``__call__``, a tracer calls ``run``. A wrapper bears the name of what it wraps.
    is_celerys = original.__module__ in (Task.__module__, trace.__name__) and not hasattr(original, "__wrapped__")

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        execution = None if request is None or request.called_directly else execution_of(request.id)
        if execution is None or execution.is_entered:
            # Other code calls the task as a function, or runs it without a worker.
            return original(self, *args, **kwargs)
        execution.is_entered = True
        if is_celerys:  # as Celery's own does: a call that the body makes gets a request of its own
            request._protected = 1  # noqa: SLF001
        try:
            result = self.run(*args, **kwargs) if is_celerys else original(self, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, LeaseLost):
                _must_hold(self, execution)
                retry_by_class(self, error)
            raise
        if execution.leased:
            _must_hold(self, execution)
        name_follow_ups(self, execution, result)
        execution.has_returned = True
        announce_returned(execution, request, result)
        return result

    cls.__call__ = call
    setattr(cls, WRAPPED, True)


def _leased(task: Any) -> Execution | None:
    """The execution of a task that needs a lease, in the process that runs it."""
    execution = execution_of(task.request.id)
    return None if execution is None or not execution.nonce else execution


def _must_hold(task: Any, execution: Execution) -> None:
    if execution.leased and not task.app.perpetual.grants.holds(execution):
        emit(events.EXECUTION_OVERTAKEN, task_id=execution.task_id)
        raise LeaseLost(f"task {execution.task_id} has lost its lease; its outcome is dropped")


def _guarded(task: Any, tracer: Any) -> Any:
    def tracing(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        delivery = request.get(DELIVERY) if isinstance(request, dict) else None
        if delivery is None:
            execution = Execution(task_id=uuid)
            reply = _traced(tracer, execution, args, kwargs, request)
            _end_rest(task, execution, request, reply[1])
            return reply
        grants: Grants = task.app.perpetual.grants
        execution = Execution.delivered(uuid, delivery)
        refused = grants.start(task, execution, request)
        if refused == HELD:
            return _ignored(HeldBack(f"task {uuid} waits for the store"))
        if refused:
            emit(events.DELIVERY_DROPPED, task_id=uuid, verdict=refused)
            return _ignored(LeaseLost(f"a delivery of task {uuid} is dropped: {refused}"))
        # Celery takes unknown entries for the user's own headers, and gives them to retries and replacements.
        rest = request.copy()
        del rest[DELIVERY]
        try:
            reply = _traced(tracer, execution, args, kwargs, rest)
        except BaseException:  # the body leaves: what Celery says of it is no end where it has handed its id on
            if execution.successor:
                release_or_keep(task.app, execution, _cause(execution), "")
            raise
        # Also where it got no lease: a store that stood still may grant it late.
        _release(task.app, execution, reply[1])
        _end_rest(task, execution, rest, reply[1])
        return reply

    return tracing


def _traced(tracer: Any, execution: Execution, args: Any, kwargs: Any, request: Any) -> Any:
    # As in acting_for, which takes longer.
    enter(execution)
    try:
        return tracer(execution.task_id, args, kwargs, request)
    finally:
        leave(execution)


def _release(app: Any, execution: Execution, info: Any) -> None:
    """Release the lease where the task goes on after this execution."""
    state, raised = getattr(info, "state", None), getattr(info, "retval", None)
    cause = _cause(execution)
    if not cause and state == states.REJECTED and isinstance(raised, Reject) and getattr(raised, "requeue", False):
        cause = "back"
    # A body that has caught the exception of its retry is a success to Celery, and a script acknowledges its message.
    tag = execution.unacked_tag if execution.successor and info is None else ""
    if cause:
        release_or_keep(app, execution, cause, tag)


def _cause(execution: Execution) -> str:
    """Why its lease is released: a successor that is on record and not sent is one that others send."""
    return "stopped" if execution.is_unsent else execution.successor


def _end_rest(task: Any, execution: Execution, request: Any, info: Any) -> None:
    """End what waits behind a task that has ignored or rejected itself, and does not go on."""
    if info is None or execution.successor or goes_on_by_hand(execution, info.state, info.retval):
        return
    status = stops_what_waits(task, info)
    if status is not None:
        end_rest(task.app, request, status, None if status == IGNORED else reason_of(task, status, info.retval))


def _ignored(reason: LeaseLost) -> Any:
    """A delivery that does not run, as Celery's tracer answers for one that ignores itself."""
    try:
        raise reason
    except LeaseLost as error:
        return trace_ok_t(ExceptionInfo(internal=True), TraceInfo(states.IGNORED, error), None, None)
