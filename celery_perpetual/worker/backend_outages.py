"""A result backend that is away when a body has returned: the task still ends as its body did.

Celery lets the backend's error take the place of the outcome: the task fails though its body succeeded, and no client
learns of it, since that failure cannot be stored either. Here, a result that cannot be stored now is kept with the end
of its task, and is stored by Celery's own code when the backend is back; then the end is announced. A state that says
only how far a task is (STARTED, RETRY) is left out. This concerns bodies that run here and whose ends we announce, and
the failures and revocations that a worker's main process stores for a task with a lease: an error would leave that task
without an end, its message unacknowledged, and its lease with a worker that lives. Of a task without a lease, this
process does not keep the result: the store does, and the end is announced at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from celery import states
from celery.backends.base import Backend
from celery.exceptions import TaskRevokedError

from celery_perpetual import events
from celery_perpetual.completions.backlog import UnstoredResult
from celery_perpetual.completions.celery_results import bounded, name_in, passes
from celery_perpetual.completions.owing import OwedResult, owe, owed_if_it_fails
from celery_perpetual.leases.execution import Execution, execution_of
from celery_perpetual.leases.interest import Interest, interest_in
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.signals import running_body

_ON_THE_WAY = (states.STARTED, states.RETRY)


def outlast_outages() -> None:
    """Wrap how Celery stores states and failures; once per process. A backend with methods of its own is left."""
    if getattr(Backend.store_result, "perpetual", False):
        return
    Backend.store_result = _storing(Backend.store_result)  # type: ignore[method-assign]
    Backend.mark_as_failure = _failing(Backend.mark_as_failure)  # type: ignore[method-assign]
    Backend.mark_as_revoked = _revoking(Backend.mark_as_revoked)  # type: ignore[method-assign]


def store_or_keep(task_id: str, later: UnstoredResult) -> Any:
    """Store a result, and do what Celery does after it; what cannot be stored now is kept with the execution."""
    try:
        later.store()
    except Exception as error:
        execution = _announced_here(task_id)
        if execution is None or not later.passes(error):
            raise
        emit(events.RESULT_DELAYED, task_id=task_id, error=error)
        execution.unstored = later
        return None
    return later.follow()


def _announced_here(task_id: str) -> Execution | None:
    """The execution whose end this process announces next: that of a running body, or one that it speaks for."""
    execution = running_body(task_id)
    if execution is None:
        execution = execution_of(task_id)
        is_spoken_for = execution is not None and execution.nonce and execution.task is None and not execution.is_over
        return execution if is_spoken_for else None
    return execution if execution.end is not None else None


def _store_or_owe(backend: Any, task_id: str, owed: OwedResult, store: Callable[[Any], Any]) -> Any:
    """Have Celery store a state; what cannot be stored now of a task whose end is ours, the store keeps.

    Args:
        backend: the result backend.
        task_id: of the task.
        owed: the result.
        store: Celery's own code, called with the backend.
    """
    app, request = backend.app, owed.request
    interest = interest_in(app, app.tasks.get(owed.task or ""), task_id, getattr(request, "headers", None))
    if Interest.END not in interest or running_body(task_id) is not None:
        return store(backend)
    token = owed_if_it_fails.set(owed)
    try:
        return store(bounded(backend, 0))
    except Exception as error:
        if not passes(backend, error):
            raise
        owe(app, task_id, owed, error)
        return None
    finally:
        owed_if_it_fails.reset(token)


def _text(traceback: Any) -> str | None:
    return None if traceback is None else str(traceback)


def result_for_later(
    backend: Any, task_id: str, original: Any, arguments: dict[str, Any], *, request: Any
) -> UnstoredResult:
    """The steps by which Celery stores a result; does nothing yet.

    Args:
        backend: the result backend.
        task_id: of the task.
        original: Celery's ``mark_as_done`` or ``mark_as_failure``.
        arguments: of it, by name, without the task's id, the request and ``store_result``.
        request: of the task.
    """
    result = arguments["result"] if "result" in arguments else arguments["exc"]
    store = partial(
        backend.store_result, task_id, result, arguments["state"], traceback=arguments.get("traceback"), request=request
    )
    # The rest of a chain is failed by storing its states.
    fails_chain = "exc" in arguments and bool(getattr(request, "chain", None))
    follow = partial(original, backend, task_id, request=request, store_result=fails_chain, **arguments)
    return UnstoredResult(store, follow, partial(passes, backend))


def _storing(original: Any) -> Any:
    @wraps(original)
    def store_result(self: Any, task_id: str, result: Any, state: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return original(self, task_id, result, state, *args, **kwargs)
        except Exception as error:
            if state not in _ON_THE_WAY or running_body(task_id) is None or not passes(self, error):
                raise
            emit(events.STATE_NOT_STORED, task_id=task_id, state=state, error=error)
            return result

    store_result.perpetual = True  # type: ignore[attr-defined]
    return store_result


def _failing(original: Any) -> Any:
    @wraps(original)
    def mark_as_failure(
        self: Any, task_id: str, exc: Any, traceback: Any = None, request: Any = None, store_result: bool = True,
        call_errbacks: bool = True, state: str = states.FAILURE,
    ) -> Any:  # fmt: skip
        arguments = {"exc": exc, "traceback": traceback, "call_errbacks": call_errbacks, "state": state}
        if store_result and _announced_here(task_id) is not None:
            return store_or_keep(task_id, result_for_later(self, task_id, original, arguments, request=request))
        owed = OwedResult(
            task=name_in(request), state=state, exception=exc, traceback=_text(traceback),
            request=request, stores=store_result,
        )  # fmt: skip
        return _store_or_owe(
            self, task_id, owed,
            lambda backend: original(backend, task_id, request=request, store_result=store_result, **arguments),
        )  # fmt: skip

    return mark_as_failure


def _revoking(original: Any) -> Any:
    @wraps(original)
    def mark_as_revoked(
        self: Any, task_id: str, reason: Any = "", request: Any = None, store_result: bool = True,
        state: str = states.REVOKED,
    ) -> Any:  # fmt: skip
        if not store_result or _announced_here(task_id) is None:
            owed = OwedResult(
                task=name_in(request), state=state, exception=TaskRevokedError(reason),
                request=request, stores=store_result,
            )  # fmt: skip
            return _store_or_owe(
                self, task_id, owed,
                lambda backend: original(backend, task_id, reason, request, store_result, state),
            )  # fmt: skip
        store = partial(
            self.store_result, task_id, TaskRevokedError(reason), state, traceback=None, request=request
        )  # fmt: skip
        follow = partial(original, self, task_id, reason, request, False, state)
        return store_or_keep(task_id, UnstoredResult(store, follow, partial(passes, self)))

    return mark_as_revoked
