"""From Celery's signals to ends.

Where a body runs (pool child, thread, greenlet), ``task_postrun`` says how it ended. The worker's main process speaks
for tasks that never ran or whose child died: ``task_failure``, ``task_revoked``, ``task_rejected``, ``task_unknown``.
Some ends are told twice or three times; the first one counts. A retry, a replacement and a message that goes back to
its queue are no ends.

Some ends come without any signal: a body that leaves by ``SystemExit`` where no parent notices, a message that cannot
be decoded, a chain or chord that Celery fails by propagation. They are seen here, in :mod:`.messages` and in
:mod:`.propagation`, and where Celery stores no state, the result backend is told, so that ``get()`` wakes.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import celery
from billiard import common, current_process
from celery import _state, signals, states
from celery.exceptions import Ignore, Reject, TimeLimitExceeded
from celery.utils.log import get_logger

from celery_perpetual.completions.announce import End
from celery_perpetual.completions.completion import EXPIRED, FAILURE, IGNORED, LOST, REJECTED, REVOKED, SUCCESS
from celery_perpetual.completions.ours import announces, is_ours
from celery_perpetual.completions.propagation import fail_successors
from celery_perpetual.errors import TaskLost

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)

#: What ``Task.replace`` raises; only its text tells it from an ``Ignore`` of the task's own.
REPLACED = "Replaced by new task"

#: Celery 5.7 fails a rejected task from the main process, and a child that left by ``SystemExit`` too.
PARENT_TELLS = celery.VERSION >= (5, 7)

#: Whether this pool child is leaving because it was told to, not because the body left.
_told_to_leave: Any = getattr(common, "terminate_handler_fired", lambda: False)

_UID = "celery_perpetual.completions"

#: Start times of the bodies that this process is running, by task id; ``task_postrun`` will tell their ends.
_running: dict[str, float] = {}


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


def end(app: Celery | None, task: Any, task_id: Any, status: str, **facts: Any) -> None:
    """Announce one end through the app's announcer; nothing where the app is not wired."""
    perpetual: Any = getattr(app, "perpetual", None)
    if perpetual is None:
        return
    name = facts.pop("name", None) or getattr(task, "name", None)
    perpetual.announcer.finish(End(task_id=task_id, task=name, status=status, announce=announces(task), **facts))


def tell_backend(task: Any, app: Celery, task_id: str, exception: Exception) -> None:
    """Store a failure for an end that Celery stores nothing for."""
    backend = getattr(task, "backend", None) or app.backend
    try:
        backend.mark_as_failure(task_id, exception)
    except Exception:
        logger.exception("perpetual: the result backend could not be told that %s failed", task_id)


def _on_prerun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    if is_ours(sender.app, sender, task_id, sender.request.headers):
        _running[task_id] = time.monotonic()


def _on_postrun(sender: Any = None, task_id: str = "", state: str | None = None, retval: Any = None, **_: Any) -> None:
    started = _running.pop(task_id, None)
    if started is None:
        return
    status = _status(sender, state, retval)
    if status is None:
        return
    request: Any = sender.request
    exception: Any = retval if status in (FAILURE, IGNORED) else None
    if status in (LOST, REJECTED):
        exception = TaskLost(f"task {task_id} left by SystemExit") if status == LOST else _reason(retval)
        tell_backend(sender, sender.app, task_id, exception)
    end(
        sender.app, sender, task_id, status,
        result=retval if status == SUCCESS else None,
        exception=None if status == IGNORED else exception,
        runtime=time.monotonic() - started,
        worker=request.hostname,
        attempt=(request.retries or 0) + 1,
        meta=getattr(request, "perpetual_meta", None),
    )  # fmt: skip
    if status == FAILURE:
        fail_successors(sender.app, request.chain, exception)


def _reason(retval: Any) -> Exception:
    return retval if isinstance(retval, Exception) else Reject(str(retval))


def _status(task: Any, state: str | None, retval: Any) -> str | None:
    """How the body ended, or None where the task goes on or another signal follows."""
    if state == states.SUCCESS:
        return SUCCESS
    if state == states.FAILURE:
        return FAILURE
    if state == states.IGNORED:
        replaced = isinstance(retval, Ignore) and retval.args[:1] == (REPLACED,)
        return None if replaced else IGNORED
    if state == states.REJECTED:
        return _rejected(task, retval)
    if state is None and isinstance(sys.exc_info()[1], SystemExit):
        return _left(task)
    return None


def _rejected(task: Any, retval: Any) -> str | None:
    requeued = isinstance(retval, Reject) and bool(getattr(retval, "requeue", False))
    eager = bool(task.request.is_eager)
    if requeued:
        # Back to the queue; but what was acknowledged before the start has no way back.
        return None if task.acks_late and not eager else REJECTED
    return None if PARENT_TELLS and not eager else REJECTED


def _left(task: Any) -> str | None:
    """``SystemExit`` out of a body: lost, unless the main process tells how the task ended."""
    told = _told_to_leave() or (PARENT_TELLS and current_process().daemon and not task.request.is_eager)
    return None if told else LOST


def _on_failure(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    if task_id in _running or not is_ours(sender.app, sender, task_id):
        return  # in the process that runs the body task_postrun follows
    if isinstance(exception, TimeLimitExceeded) and not _acks_on_timeout(sender):
        return  # the message went back
    request = sender.request
    own = request.id == task_id
    end(
        sender.app, sender, task_id, FAILURE,
        exception=exception,
        worker=request.hostname if own else None,
        attempt=(request.retries or 0) + 1 if own else 1,
    )  # fmt: skip
    if own:
        fail_successors(sender.app, request.chain, exception)


def _acks_on_timeout(task: Any) -> bool:
    if not task.acks_late:
        return True
    own = getattr(task, "acks_on_timeout", None)
    return bool(task.acks_on_failure_or_timeout if own is None else own)


def _on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    task_id, headers = getattr(request, "id", None), getattr(request, "request_dict", None)
    if is_ours(sender.app, sender, task_id, headers):
        worker = getattr(request, "hostname", None)
        end(sender.app, sender, task_id, EXPIRED if expired else REVOKED, worker=worker)


def _on_rejected(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    headers = getattr(message, "headers", None) or {}
    reject(sender.app, headers, exc, REJECTED, sender.hostname)


def _on_unknown(sender: Any = None, message: Any = None, exc: Any = None, **unknown: Any) -> None:
    headers, task_id = getattr(message, "headers", None) or {}, unknown.get("id")
    if is_ours(sender.app, None, task_id, headers):
        end(sender.app, None, task_id, FAILURE, name=unknown.get("name"), exception=exc, worker=sender.hostname)


def _on_internal_error(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    """Celery's own code failed around the body; it stores nothing then."""
    if _running.pop(task_id, None) is None and not is_ours(sender.app, sender, task_id):
        return
    lost = TaskLost(f"task {task_id} broke off: {exception!r}")
    tell_backend(sender, sender.app, task_id, lost)
    end(sender.app, sender, task_id, LOST, exception=lost)


def reject(app: Any, headers: Any, exc: Any, status: str, worker: str) -> None:
    """The end of a message that no task could be made of."""
    task_id, name = headers.get("id"), headers.get("task")
    task = app.tasks.get(name)
    if is_ours(app, task, task_id, headers):
        lost = TaskLost(f"message of task {task_id} could not be used: {exc!r}")
        tell_backend(task, app, task_id, lost)
        end(app, task, task_id, status, name=name, exception=exc if exc is not None else lost, worker=worker)


def _on_process_shutdown(**_: Any) -> None:
    """A pool child that goes takes its unsettled ends along; it tries once more."""
    for perpetual in {id(p): p for p in _wired()}.values():
        perpetual.announcer.settle()


def _wired() -> list[Any]:
    apps: Any = _state._get_active_apps()  # type: ignore[attr-defined]  # noqa: SLF001  # as shared_task does
    return [app.perpetual for app in apps if getattr(app, "perpetual", None) is not None]
