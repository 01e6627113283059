"""From Celery's signals to ends.

Where a body runs (pool child, thread, greenlet), ``task_postrun`` says how it ended. The worker's main process speaks
for tasks that never ran or whose child died: ``task_failure``, ``task_revoked``, ``task_rejected``, ``task_unknown``.
Some ends are reported twice or three times; the first one counts. A retry, a replacement and a message that goes back
to its queue are no ends.

Some ends come without any signal: a body that leaves by ``SystemExit`` where no parent notices, a message that cannot
be decoded, a chain or chord that Celery fails by propagation. They are seen here, in :mod:`.malformed` and
in :mod:`.propagation`, and where Celery stores no state, a failure is stored for it, so that ``get()`` wakes. Most
successes are announced before ``task_postrun``, in :mod:`.early_success`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery import _state, signals, states
from celery.app.task import Context
from celery.exceptions import InvalidTaskError, NotRegistered, Reject, TaskRevokedError, WorkerLostError

from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import EXPIRED, FAILURE, IGNORED, LOST, REJECTED, REVOKED, SUCCESS
from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.errors import TaskLost
from celery_perpetual.leases.execution import Execution, current, enter, execution_of, leave
from celery_perpetual.leases.interest import Interest, announces, has_own_strategy, interest_in, wired
from celery_perpetual.leases.time_limits import time_to_end
from celery_perpetual.tasks.task import REPLAY_HEADER
from celery_perpetual.worker.how_it_ended import PARENT_ANNOUNCES, goes_on_by_hand, reason_of, status_of
from celery_perpetual.worker.propagation import embedded, end_rest, goes_back

if TYPE_CHECKING:
    from celery_perpetual.completions.end import ExpectedEnd


#: How long a pool child that ends waits for a store that does not answer, in seconds.
FAREWELL_SECONDS = 10.0

_UID = "celery_perpetual.completions"


def connect() -> None:
    """Connect the handlers, once per process. They serve every app that is wired."""
    for signal, handler in (
        (signals.task_prerun, _on_prerun),
        (signals.task_postrun, _on_postrun),
        (signals.task_failure, _on_failure),
        (signals.task_revoked, _on_revoked),
        (signals.task_rejected, _on_rejected),
        (signals.task_unknown, _on_unknown),
        (signals.task_internal_error, _on_internal_error),
        (signals.worker_process_shutdown, _on_process_shutdown),
    ):
        signal.connect(handler, weak=False, dispatch_uid=_UID)


def announce_end(app: Any, task: Any, task_id: Any, status: str, interest: Interest, **facts: Any) -> None:
    """Store one end, and publish it if that is of interest. Nothing where the app is not wired.

    Args:
        app: of the task.
        task: None where it is not registered; ``name`` among the facts says what it is called then.
        task_id: of the task.
        status: how it ended.
        interest: in the task; ``ANNOUNCE`` is asked for.
        **facts: of the end, see :class:`TaskEnd`.
    """
    perpetual = wired(app)
    if perpetual is None:
        return
    name = facts.pop("name", None) or getattr(task, "name", None)
    is_announced = Interest.ANNOUNCE in interest and announces(task)
    execution = execution_of(task_id)
    facts |= _of_execution(execution)
    end = TaskEnd(task_id=task_id, task=name, status=status, announce=is_announced, **facts)
    perpetual.announcer.announce(end, None if execution is None else execution.unstored)


def _of_execution(execution: Execution | None) -> dict[str, Any]:
    if execution is None or not execution.nonce:
        return {}
    return {
        "nonce": execution.nonce, "leased": execution.leased, "tag": execution.unacked_tag, "where": execution.where,
    }  # fmt: skip


def _running(task_id: Any) -> Execution | None:
    """The execution whose body this thread or greenlet runs, from ``task_prerun`` to ``task_postrun``."""
    execution = execution_of(task_id)
    return None if execution is None or execution.task is None else execution


def running_body(task_id: Any) -> Execution | None:
    """The same, until its end is announced or another signal announces it."""
    execution = _running(task_id)
    return None if execution is None or execution.is_over else execution


def _interest_here(task: Any, task_id: str) -> Interest:
    """In a task that runs here: one that its caller runs by itself holds no lease."""
    if has_own_strategy(task) and execution_of(task_id) is None and not task.request.is_eager:
        return Interest.NONE  # one body for many messages; each of those has its own end
    interest = interest_in(task.app, task, task_id, task.request.headers)
    return interest & ~Interest.LEASE if task.request.is_eager else interest


def _leave_abandoned() -> None:
    """Leave executions that Celery does not run: a test has sent their ``task_prerun``, and nothing comes after it."""
    while (execution := current()) is not None and execution.is_by_signal:
        if any(request.id == execution.task_id for request in execution.task.request_stack.stack or ()):
            return
        leave(execution)


def _on_prerun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    execution, request = execution_of(task_id), sender.request
    is_delivered = execution is not None and execution.task is None and bool(execution.nonce)
    interest = execution.interest if execution is not None and is_delivered else _interest_here(sender, task_id)
    if not interest:
        return
    if not is_delivered:
        _leave_abandoned()
        execution = execution_of(task_id)
    if execution is None or execution.task is not None:
        execution = Execution(task_id=task_id, is_by_signal=True)
        enter(execution)
    execution.task, execution.interest = sender, interest
    if (repeated := request.get(REPLAY_HEADER)) is not None and execution.meta is None:
        execution.meta = {"replay_of": repeated}
    execution.since, execution.around = time.monotonic(), sys.exc_info()[1]
    if not execution.began:
        execution.began = execution.since
        execution.limits = sender.app.perpetual.grants.limits_of(sender, request.timelimit)
    execution.end = sender.app.perpetual.announcer.expect(
        task_id, sender.name, announce=Interest.ANNOUNCE in interest,
        worker=request.hostname, attempt=(request.retries or 0) + 1,
        stores=not (sender.ignore_result or request.ignore_result), nonce=execution.nonce, leased=execution.leased,
        tag=execution.unacked_tag, where=execution.where,
    )  # fmt: skip


def _on_postrun(sender: Any = None, task_id: str = "", state: str | None = None, retval: Any = None, **_: Any) -> None:
    execution = _running(task_id)
    if execution is None:
        return
    if execution.is_by_signal:
        leave(execution)
    if execution.is_over:
        return
    execution.is_over = True
    execution.successor = execution.successor or goes_on_by_hand(execution, state, retval)
    if execution.successor:
        return
    raised = sys.exc_info()[1]
    status = status_of(sender, state, retval, None if raised is execution.around else raised)
    if status is None:
        return
    exception = None if status in (SUCCESS, IGNORED) else reason_of(sender, status, retval)
    if Interest.END in execution.interest and (state in (None, states.RETRY) or status == REJECTED):
        assert exception is not None
        celery_results.store_failure(sender.app, sender, task_id, exception, sender.request)
    assert execution.end is not None
    head = head_of(execution, execution.end, status, result=retval if status == SUCCESS else None, exception=exception)
    sender.app.perpetual.announcer.announce_expected(
        execution.end, status, head, unstored=execution.unstored, within=time_to_end(execution)
    )  # fmt: skip


def head_of(execution: Execution, end: ExpectedEnd, status: str, **facts: Any) -> str:
    """The head of the record of a body that has just ended here."""
    return end.head(status, runtime=time.monotonic() - execution.since, meta=execution.meta, **facts)


def _on_failure(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    if _running(task_id) is not None:
        return  # in the process that runs the body task_postrun follows
    request = sender.request
    own = request.id == task_id
    interest = interest_in(sender.app, sender, task_id, request.headers if own else None)
    if not interest or goes_back(sender, exception):
        return
    # The child may have died only after Celery had stored its success.
    lost = isinstance(exception, WorkerLostError) and not PARENT_ANNOUNCES
    succeeded = lost and celery_results.is_success(sender.app, sender, task_id)
    # Since 5.7 Celery fails a task that rejects its message.
    failed = REJECTED if isinstance(exception, Reject) else FAILURE
    announce_end(
        sender.app, sender, task_id, SUCCESS if succeeded else failed, interest,
        exception=None if succeeded else exception,
        worker=request.hostname if own else None,
        attempt=(request.retries or 0) + 1 if own else 1,
    )  # fmt: skip


def _on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    task_id = getattr(request, "id", None)
    interest = interest_in(sender.app, sender, task_id, getattr(request, "headers", None))
    status = EXPIRED if expired else REVOKED
    if interest:
        worker = getattr(request, "hostname", None)
        announce_end(sender.app, sender, task_id, status, interest, worker=worker)
    end_rest(sender.app, getattr(request, "__dict__", None), status, TaskRevokedError(status))


def _on_rejected(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    headers = getattr(message, "headers", None) or {}
    announce_refused(sender.app, headers, exc, REJECTED, getattr(sender, "hostname", None))
    refusal = TaskLost(f"message of task {headers.get('id')} could not be used: {exc!r}")
    end_rest(sender.app, embedded(message), FAILURE, exc if isinstance(exc, Exception) else refusal)


def _on_unknown(sender: Any = None, message: Any = None, name: Any = None, **unknown: Any) -> None:
    headers, task_id = getattr(message, "headers", None) or {}, unknown.get("id")
    raised = NotRegistered(name)  # what Celery stores as the result; the signal has the KeyError of its registry
    interest = interest_in(sender.app, None, task_id, headers)
    if interest:
        announce_end(
            sender.app, None, task_id, FAILURE, interest, name=name, exception=raised,
            worker=getattr(sender, "hostname", None),
        )  # fmt: skip
    end_rest(sender.app, embedded(message), FAILURE, raised)


def _on_internal_error(
    sender: Any = None, task_id: str = "", exception: Any = None, request: Any = None, **_: Any
) -> None:
    """Celery's own code, or a hook of the task, failed around the body."""
    execution = execution_of(task_id)
    if execution is not None and execution.successor:
        return  # the hook of its retry: the retry goes on
    context = Context(dict(request) if isinstance(request, Mapping) else {})
    interest = interest_in(sender.app, sender, task_id, context.headers)
    if not interest:
        return
    status = FAILURE
    if isinstance(exception, InvalidTaskError):  # the body never began
        status, exception = LOST, TaskLost(f"message of task {task_id} could not be used: {exception}")
    if Interest.END in interest:
        celery_results.store_failure(sender.app, sender, task_id, exception, context)
    announce_end(
        sender.app, sender, task_id, status, interest,
        exception=exception, worker=context.hostname, attempt=(context.retries or 0) + 1,
    )  # fmt: skip


def announce_refused(app: Any, headers: Any, exc: Any, status: str, worker: str | None) -> None:
    """The end of a message that no task could be made of."""
    if wired(app) is None or not isinstance(headers, Mapping) or not isinstance(headers.get("id"), str):
        return
    task_id, name = headers["id"], headers.get("task")
    task = app.tasks.get(name)
    interest = interest_in(app, task, task_id, headers)
    if interest:
        lost = TaskLost(f"message of task {task_id} could not be used: {exc!r}")
        if Interest.END in interest:
            celery_results.store_failure(app, task, task_id, lost)
        seen = exc if exc is not None else lost
        announce_end(app, task, task_id, status, interest, name=name, exception=seen, worker=worker)


def _on_process_shutdown(**_: Any) -> None:
    """A pool child that goes announces the ends that wait for the store; it tries for a while."""
    for perpetual in {id(p): p for p in _wired()}.values():
        perpetual.announcer.announce_backlog(FAREWELL_SECONDS)


def _wired() -> list[Any]:
    apps: Any = _state._get_active_apps()  # type: ignore[attr-defined]  # noqa: SLF001  # as shared_task does
    return [app.perpetual for app in apps if getattr(app, "perpetual", None) is not None]
