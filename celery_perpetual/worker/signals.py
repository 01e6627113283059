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
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery import _state, signals
from celery.app.task import Context
from celery.exceptions import InvalidTaskError, WorkerLostError

from celery_perpetual.completions import celery_results
from celery_perpetual.completions.backlog import UnstoredResult
from celery_perpetual.completions.completion import EXPIRED, FAILURE, IGNORED, LOST, REJECTED, REVOKED, SUCCESS
from celery_perpetual.completions.end import ExpectedEnd, TaskEnd
from celery_perpetual.errors import TaskLost
from celery_perpetual.leases.execution import current
from celery_perpetual.leases.scope import announces, standing
from celery_perpetual.worker.how_it_ended import PARENT_TELLS, reason_of, status_of
from celery_perpetual.worker.propagation import goes_back

if TYPE_CHECKING:
    from celery import Celery


#: What a pool child that goes waits for a store that does not answer.
FAREWELL_SECONDS = 10.0

_UID = "celery_perpetual.completions"


@dataclass(slots=True)
class Running:
    """A body that is running here, or has just run."""

    task: Any
    since: float
    told: bool
    """Whether its end is announced, or only settled."""
    around: BaseException | None
    """What was being handled when the body began; anything else at its end is on its way out of Celery's code."""
    end: ExpectedEnd | None
    """Its end, written as far as it is known; None where the app is not wired."""
    over: bool = False
    """Its end has been told."""
    unstored: UnstoredResult | None = None
    """Its result, where Celery's backend could not store it."""


#: The bodies that this process is running, by task id and thread or greenlet; ``task_postrun`` will tell their ends. A
#: retry or a redelivery may run beside what it follows.
_running: dict[tuple[str, int], Running] = {}


def _here(task_id: str) -> tuple[str, int]:
    return task_id, threading.get_ident()


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


def end(app: Celery | None, task: Any, task_id: Any, status: str, *, told: bool = True, **facts: Any) -> None:
    """Settle one end through the app's announcer, and announce it if it is to be ``told``, and the task lets it.

    Nothing where the app is not wired.
    """
    perpetual: Any = getattr(app, "perpetual", None)
    if perpetual is None:
        return
    name = facts.pop("name", None) or getattr(task, "name", None)
    facts |= _of_execution(task_id)
    perpetual.announcer.announce(
        TaskEnd(task_id=task_id, task=name, status=status, announce=told and announces(task), **facts)
    )


def _of_execution(task_id: str) -> dict[str, Any]:
    execution = current()
    if execution is None or execution.task_id != task_id:
        return {}
    return {"nonce": execution.nonce, "leased": execution.leased, "tag": execution.tag}


def _standing(task: Any, task_id: str) -> bool | None:
    """What the end of a body that runs here means to us; one that its caller runs by itself holds no lease."""
    told = standing(task.app, task, task_id, task.request.headers)
    return None if told is False and task.request.is_eager else told


def _on_prerun(sender: Any = None, task_id: str = "", **_: Any) -> None:
    told = _standing(sender, task_id)
    if told is not None:
        expected = _expected(sender, task_id, told)
        _running[_here(task_id)] = Running(sender, time.monotonic(), told, sys.exc_info()[1], expected)


def _expected(task: Any, task_id: str, told: bool) -> ExpectedEnd | None:
    perpetual: Any = getattr(task.app, "perpetual", None)
    if perpetual is None:
        return None
    facts = _of_request(task.request) | _of_execution(task_id)
    expected: ExpectedEnd = perpetual.announcer.expect(task_id, task.name, announce=told and announces(task), **facts)
    return expected


def _on_postrun(sender: Any = None, task_id: str = "", state: str | None = None, retval: Any = None, **_: Any) -> None:
    request: Any = sender.request
    running = _running.pop(_here(task_id), None)
    told = running.told if running is not None else _standing(sender, task_id)
    if told is None or (running is not None and running.over):
        return
    raised = sys.exc_info()[1]
    leaving = None if running is None or raised is running.around else raised
    status = status_of(sender, state, retval, leaving)
    if status is None:
        return
    exception = None if status in (SUCCESS, IGNORED) else reason_of(sender, status, retval)
    if told and (state is None or status == REJECTED):
        assert exception is not None
        celery_results.store_failure(sender.app, sender, task_id, exception, request)
    result = retval if status == SUCCESS else None
    if running is not None:
        tell(sender, request, running, status, result=result, exception=exception)
    else:
        meta = getattr(request, "perpetual_meta", None)
        end(
            sender.app, sender, task_id, status, told=told, result=result, exception=exception, meta=meta,
            **_of_request(request),
        )  # fmt: skip


def running_body(task_id: str) -> Running | None:
    """The body that this thread or greenlet runs for a task, until its end is told."""
    running = _running.get(_here(task_id))
    return None if running is None or running.over else running


def tell(task: Any, request: Any, running: Running, status: str, **facts: Any) -> None:
    """Announce, or only settle, the end of a body that ran here."""
    if running.end is not None:
        head = head_of(running, request, status, **facts)
        task.app.perpetual.announcer.announce_expected(running.end, status, head, unstored=running.unstored)


def head_of(running: Running, request: Any, status: str, **facts: Any) -> str:
    """The head of the record of a body that has just ended here."""
    assert running.end is not None
    runtime, meta = time.monotonic() - running.since, getattr(request, "perpetual_meta", None)
    return running.end.head(status, runtime=runtime, meta=meta, **facts)


def _of_request(request: Any) -> dict[str, Any]:
    return {"worker": request.hostname, "attempt": (request.retries or 0) + 1}


def _on_failure(sender: Any = None, task_id: str = "", exception: Any = None, **_: Any) -> None:
    request = sender.request
    own = request.id == task_id
    if any(each == task_id for each, _ in list(_running)):
        return  # in the process that runs the body task_postrun follows
    told = standing(sender.app, sender, task_id, request.headers if own else None)
    if told is None:
        return
    if goes_back(sender, exception):
        return
    # The child may have died only after Celery had stored its success.
    lost = isinstance(exception, WorkerLostError) and not PARENT_TELLS
    succeeded = lost and celery_results.is_success(sender.app, sender, task_id)
    end(
        sender.app, sender, task_id, SUCCESS if succeeded else FAILURE, told=told,
        exception=None if succeeded else exception,
        worker=request.hostname if own else None,
        attempt=(request.retries or 0) + 1 if own else 1,
    )  # fmt: skip


def _on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    task_id = getattr(request, "id", None)
    told = standing(sender.app, sender, task_id, getattr(request, "headers", None))
    if told is not None:
        worker = getattr(request, "hostname", None)
        end(sender.app, sender, task_id, EXPIRED if expired else REVOKED, told=told, worker=worker)


def _on_rejected(sender: Any = None, message: Any = None, exc: Any = None, **_: Any) -> None:
    headers = getattr(message, "headers", None) or {}
    reject(sender.app, headers, exc, REJECTED, sender.hostname)


def _on_unknown(sender: Any = None, message: Any = None, exc: Any = None, **unknown: Any) -> None:
    headers, task_id = getattr(message, "headers", None) or {}, unknown.get("id")
    if standing(sender.app, None, task_id, headers):
        end(sender.app, None, task_id, FAILURE, name=unknown.get("name"), exception=exc, worker=sender.hostname)


def _on_internal_error(
    sender: Any = None, task_id: str = "", exception: Any = None, request: Any = None, **_: Any
) -> None:
    """Celery's own code, or a hook of the task, failed around the body."""
    context = Context(dict(request or {}))
    running = _running.pop(_here(task_id), None)
    told = running.told if running is not None else standing(sender.app, sender, task_id, context.headers)
    if told is None:
        return
    status = FAILURE
    if isinstance(exception, InvalidTaskError):  # the body never began
        status, exception = LOST, TaskLost(f"message of task {task_id} could not be used: {exception}")
    if told:
        celery_results.store_failure(sender.app, sender, task_id, exception, context)
    end(
        sender.app, sender, task_id, status, told=told,
        exception=exception, worker=context.hostname, attempt=(context.retries or 0) + 1,
    )  # fmt: skip


def reject(app: Any, headers: Any, exc: Any, status: str, worker: str) -> None:
    """The end of a message that no task could be made of."""
    task_id, name = headers.get("id"), headers.get("task")
    task = app.tasks.get(name)
    told = standing(app, task, task_id, headers)
    if told is not None:
        lost = TaskLost(f"message of task {task_id} could not be used: {exc!r}")
        if told:
            celery_results.store_failure(app, task, task_id, lost)
        seen = exc if exc is not None else lost
        end(app, task, task_id, status, told=told, name=name, exception=seen, worker=worker)


def _on_process_shutdown(**_: Any) -> None:
    """A pool child that goes takes its unsettled ends along; it tries for a while."""
    for perpetual in {id(p): p for p in _wired()}.values():
        perpetual.announcer.announce_backlog(FAREWELL_SECONDS)


def _wired() -> list[Any]:
    apps: Any = _state._get_active_apps()  # type: ignore[attr-defined]  # noqa: SLF001  # as shared_task does
    return [app.perpetual for app in apps if getattr(app, "perpetual", None) is not None]
