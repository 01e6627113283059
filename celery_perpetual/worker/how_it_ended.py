"""How a body ended, from what Celery and Python say of it."""

from __future__ import annotations

from typing import Any

import celery
from billiard import common, current_process
from celery import states
from celery.exceptions import Ignore, Reject, Retry, TaskError, TimeLimitExceeded

from celery_perpetual.completions.completion import FAILURE, IGNORED, LOST, REJECTED, SUCCESS
from celery_perpetual.errors import TaskLost
from celery_perpetual.leases.execution import Execution, LeaseLost
from celery_perpetual.worker.propagation import goes_back

#: The error that ``Task.replace`` raises; only its text distinguishes it from an ``Ignore`` of the task's own.
REPLACED = "Replaced by new task"

#: Celery 5.7 reports from the main process a rejected task, a body that left a pool child by ``SystemExit`` or the
#: like, and a greenlet that ran out of its time; and it knows a success whose child died afterwards.
PARENT_ANNOUNCES = celery.VERSION >= (5, 7)

#: Whether this pool child leaves because its parent wants it to, not because the body left.
_was_asked_to_leave: Any = getattr(common, "terminate_handler_fired", lambda: False)


def reason_of(task: Any, status: str, retval: Any) -> Exception:
    """The error of the completion of a body that ended so."""
    if isinstance(retval, Retry):
        # Not a Retry: a task that waits for the result would seem to retry itself.
        return TaskError(f"task {task.name} has raised Retry itself and sent nothing ({retval}); use self.retry()")
    if isinstance(retval, Exception):
        return retval
    if status == LOST:
        return TaskLost(f"task {task.request.id} was left by its own process without an end")
    return TimeLimitExceeded(_limit(task)) if status == FAILURE else Reject(str(retval))


def status_of(task: Any, state: str | None, retval: Any, leaving: BaseException | None) -> str | None:
    """How the body ended, or None where the task goes on or another signal follows."""
    if isinstance(leaving, Exception) and not isinstance(leaving, Reject | MemoryError):
        return None  # task_internal_error follows
    if state == states.SUCCESS:
        return SUCCESS
    if state == states.FAILURE:
        return FAILURE
    if state == states.IGNORED:
        replaced = isinstance(retval, Ignore) and retval.args[:1] == (REPLACED,)
        return None if replaced or isinstance(retval, LeaseLost) else IGNORED
    if state == states.REJECTED:
        return _rejected(task, retval)
    if state == states.RETRY and not task.request.is_eager:
        return FAILURE  # nothing was sent that could go on
    return None if state is not None or leaving is None else _left(task, leaving)


def goes_on_by_hand(execution: Execution, state: str | None, retval: Any) -> str:
    """How a task goes on that has sent a message under its own id and says that it has not ended; "" if it ends."""
    says_so = state in (states.IGNORED, states.RETRY) and not isinstance(retval, LeaseLost)
    return execution.sent_again if says_so else ""


def stops_what_waits(task: Any, info: Any) -> str | None:
    """How what waits behind a task ends that stops its chain: ignored as it is, or failed if it rejects itself.

    None where it stops nothing, or Celery fails the rest. Newer versions of Celery do that behind a rejected task too.

    Args:
        task: that has run.
        info: what Celery's tracer says of it, None of a success.
    """
    state, raised = getattr(info, "state", None), getattr(info, "retval", None)
    if state == states.IGNORED:
        goes_on = isinstance(raised, LeaseLost) or getattr(raised, "args", ())[:1] == (REPLACED,)
        return None if goes_on else IGNORED
    if state == states.RETRY:
        return FAILURE
    if state == states.REJECTED:
        return None if getattr(raised, "requeue", False) and task.acks_late else FAILURE
    return None


def _rejected(task: Any, retval: Any) -> str | None:
    requeued = isinstance(retval, Reject) and bool(getattr(retval, "requeue", False))
    eager = bool(task.request.is_eager)
    if requeued:
        # Back to the queue; but what was acknowledged before the start has no way back.
        return None if task.acks_late and not eager else REJECTED
    return None if PARENT_ANNOUNCES and not eager else REJECTED


def _left(task: Any, leaving: BaseException) -> str | None:
    """``SystemExit``, a cancellation and the like out of a body: lost, unless the main process reports the end."""
    if task.request.is_eager:
        return LOST
    if type(leaving).__module__.partition(".")[0] in ("gevent", "greenlet"):
        return _stopped(task, leaving)
    if not current_process().daemon:
        return LOST
    return None if PARENT_ANNOUNCES or _was_asked_to_leave() else LOST


def _stopped(task: Any, leaving: BaseException) -> str | None:
    """A greenlet that was stopped: by a revocation, which has its own signal, by a limit, or by its own time-out."""
    if type(leaving).__name__ == "GreenletExit":
        return None
    if _limit(task) is None:
        return LOST
    return None if PARENT_ANNOUNCES or goes_back(task, TimeLimitExceeded()) else FAILURE


def _limit(task: Any) -> Any:
    return (task.request.timelimit or (None,))[0] or task.time_limit
