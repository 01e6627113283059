"""The guard: who may run, before it runs, and who may end, before Celery believes it.

Celery traces a task with a function that it keeps in the task's ``__trace__``. Ours stands around it, so the lease is
asked for before signals, hooks and the state STARTED. What has no nonce (it was not received by a worker of ours, or
needs no lease) costs one look into a dict.

The body is wrapped too: an execution that may have lost its lease asks again before Celery stores a result, sends
callbacks or counts a chord; a retry and a replacement ask before they send a message that would supersede the holder.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from billiard.einfo import ExceptionInfo
from celery import bootsteps, current_app, signals, states
from celery.app.task import Task
from celery.app.trace import TraceInfo, build_tracer, trace_ok_t
from celery.canvas import _chain
from celery.exceptions import Ignore, Reject

from celery_perpetual import events
from celery_perpetual.leases.execution import NONCE, OF_DELIVERY, Execution, LeaseLost, acting_for, current
from celery_perpetual.leases.scope import BUILT_IN
from celery_perpetual.tasks.task import HEADER, HEADER_VALUE
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.early_success import RETURNED, tell_returned
from celery_perpetual.worker.how_it_ended import REPLACED
from celery_perpetual.worker.request import leased_request

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


#: Where a task keeps its tracer, a class the mark that its body is wrapped, and a request the mark that it has begun.
TRACER, WRAPPED, ENTERED = "_perpetual_tracer", "_perpetual_body", "_perpetual_entered"


class _Tracer:
    """``Task.__trace__``: whoever builds a tracer for a task, it gets our guard around it."""

    def __get__(self, task: Any, owner: Any = None) -> Any:
        return None if task is None else task.__dict__.get(TRACER)

    def __set__(self, task: Any, tracer: Any) -> None:
        task.__dict__[TRACER] = tracer if tracer is None else _guarded(task, tracer)


def watch_tracers() -> None:
    """Stand around tracers, retries and replacements; once per process."""
    if isinstance(Task.__dict__.get("__trace__"), _Tracer):
        return
    Task.__trace__ = _Tracer()
    retry, replace = Task.retry, Task.replace

    @wraps(retry)
    def retrying(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _mine(self) is not None:
            _must_hold(self)
            if kwargs.get("headers"):
                kwargs["headers"] = {**kwargs["headers"], HEADER: HEADER_VALUE}
        return retry(self, *args, **kwargs)

    @wraps(replace)
    def replacing(self: Any, sig: Any) -> Any:
        if _mine(self) is not None:
            _must_hold(self)
            # The message that carries the original id keeps the guard, and no other.
            last = sig.tasks[-1] if isinstance(sig, _chain) and getattr(sig, "tasks", None) else sig
            last.options["headers"] = {**(last.options.get("headers") or {}), HEADER: HEADER_VALUE}
        return replace(self, sig)

    Task.retry, Task.replace = retrying, replacing  # type: ignore[method-assign]
    signals.worker_process_init.connect(_guard_late_tasks, weak=False, dispatch_uid="celery_perpetual.guard")


class GuardStep(bootsteps.Step):
    """Guards the tasks that are known before the pool forks."""

    name = "perpetual-guard"

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        guard_tasks(worker.app)


def guard_tasks(app: Celery) -> list[Any]:
    """Wrap the bodies and requests of every task of the app, before tracers and strategies are built of them.

    Returns:
        The tasks whose body was not wrapped before: a tracer that was built of one of these knows nothing of it.
    """
    tasks = [task for name, task in app.tasks.items() if not name.startswith(BUILT_IN)]
    fresh = [task for task in tasks if WRAPPED not in type(task).__dict__]
    for task in tasks:
        _wrap_body(type(task))
        task.Request = leased_request(task.Request)
    return fresh


def _guard_late_tasks(sender: Any = None, **_: Any) -> None:
    """In a pool's child: guard the tasks that it knows and its parent did not, and have their tracers built anew."""
    app: Any = current_app
    if getattr(app, "perpetual", None) is not None:
        for task in guard_tasks(app):
            task.__trace__ = build_tracer(task.name, task, app.loader, sender, app=app)


def _wrap_body(cls: Any) -> None:
    if WRAPPED in cls.__dict__:
        return
    original = cls.__call__

    @wraps(original)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        request = self.request_stack.top
        if request is None or request.called_directly or ENTERED in request.__dict__:
            # Somebody calls the task as a function.
            return original(self, *args, **kwargs)
        request.__dict__[ENTERED] = True
        try:
            # In a worker, Celery's own __call__ knows that the tracer has pushed the request.
            result = original(self, *args, **kwargs)
        except Exception as error:
            if not isinstance(error, LeaseLost):
                _must_hold(self)
            raise
        if current() is not None:  # whoever waits for this end waits for every call that is made here
            _must_hold(self)
        request.__dict__[RETURNED] = True
        tell_returned(self, request, result)
        return result

    cls.__call__ = call
    setattr(cls, WRAPPED, True)


def _mine(task: Any) -> Execution | None:
    execution = current()
    return execution if execution is not None and task.request.id == execution.task_id else None


def _must_hold(task: Any) -> None:
    execution = _mine(task)
    if execution is not None and not task.app.perpetual.grants.holds(execution):
        emit(events.EXECUTION_OVERTAKEN, task_id=execution.task_id)
        raise LeaseLost(f"task {execution.task_id} has lost its lease; its result is dropped")


def _guarded(task: Any, tracer: Any) -> Any:
    def trace(uuid: str, args: Any, kwargs: Any, request: Any = None) -> Any:
        perpetual: Any = getattr(task.app, "perpetual", None)
        if not request or NONCE not in request or perpetual is None:
            return tracer(uuid, args, kwargs, request)
        leases: Grants = perpetual.grants
        execution = leases.start(task, uuid, request)
        if isinstance(execution, str):
            return _ignored(uuid, execution)
        # Celery takes what it does not know for the user's own headers, and gives them to retries and replacements.
        told = {name: value for name, value in request.items() if name not in OF_DELIVERY}
        with acting_for(execution):
            reply = tracer(uuid, args, kwargs, told)
        if execution.leased:
            _give_back(leases, execution, reply[1])
        return reply

    return trace


def _give_back(leases: Grants, execution: Execution, info: Any) -> None:
    """Where the task goes on after this execution."""
    state, raised = getattr(info, "state", None), getattr(info, "retval", None)
    cause = None
    if state == states.RETRY:
        cause = "wait"
    elif state == states.IGNORED and isinstance(raised, Ignore) and raised.args[:1] == (REPLACED,):
        cause = "delegated"
    elif state == states.REJECTED and isinstance(raised, Reject) and getattr(raised, "requeue", False):
        cause = "back"
    if cause is not None:
        leases.try_to_release(execution.task_id, execution.nonce, cause)


def _ignored(task_id: str, verdict: str) -> Any:
    """A delivery that must not run, as Celery's tracer answers for one that ignores itself."""
    emit(events.DELIVERY_DROPPED, task_id=task_id, verdict=verdict)
    try:
        raise LeaseLost(f"a delivery of task {task_id} is dropped: {verdict}")
    except LeaseLost as error:
        return trace_ok_t(ExceptionInfo(internal=True), TraceInfo(states.IGNORED, error), None, None)
