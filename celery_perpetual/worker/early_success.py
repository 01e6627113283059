"""A success is told as soon as Celery has stored it, and at once where Celery has nothing to store.

``task_postrun`` comes later: Celery makes a representation of the result first, and whoever waits for the end would
wait for that too. Only where code of the user's follows the storing (a hook of the task, a receiver of
``task_success``), which may add facts to the end or change it, is ``task_postrun`` waited for.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any

from celery import states
from celery.app.trace import task_has_custom
from celery.backends.base import Backend, DisabledBackend
from celery.signals import task_success

from celery_perpetual import events
from celery_perpetual.completions.announce import FORBIDDEN
from celery_perpetual.completions.backlog import UnstoredResult
from celery_perpetual.completions.completion import SUCCESS
from celery_perpetual.completions.end import ExpectedEnd
from celery_perpetual.completions.result_in_script import leave_to_celery
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.backend_outages import result_for_later, store_or_keep
from celery_perpetual.worker.signals import Running, head_of, running_body

#: In a request: its body has returned, and what it returned is what the task ends with.
RETURNED = "_perpetual_returned"


def watch_results() -> None:
    """Stand behind the storing of successes; once per process. A backend with a ``mark_as_done`` of its own is left."""
    original = Backend.mark_as_done
    if getattr(original, "perpetual", False):
        return

    @wraps(original)
    def mark_as_done(
        self: Any, task_id: str, result: Any, request: Any = None, store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> Any:  # fmt: skip
        if not store_result or request is None or request.ignore_result or running_body(task_id) is None:
            later = None
        else:
            later = result_for_later(self, task_id, original, {"result": result, "state": state}, request=request)

        def store() -> Any:
            if later is None:
                return original(self, task_id, result, request, store_result, state)
            return store_or_keep(task_id, later)

        running = None
        if RETURNED in getattr(request, "__dict__", ()) and state == states.SUCCESS:
            running = _without_hooks(task_id)
        if running is None:
            return store()
        return _told(self if store_result else None, store, running, running.end, result, request, later)

    mark_as_done.perpetual = True  # type: ignore[attr-defined]
    Backend.mark_as_done = mark_as_done  # type: ignore[method-assign]


def tell_returned(task: Any, request: Any, result: Any) -> None:
    """Tell a success of which Celery will neither store nor send anything: nothing else can become of it."""
    if request.callbacks or request.chain or request.chord:
        return
    if not (task.ignore_result or request.ignore_result or isinstance(task.backend, DisabledBackend)):
        return
    running = _without_hooks(request.id)
    if running is None:
        return
    try:
        _told(None, lambda: None, running, running.end, result, request)
    except Exception as error:  # it would be taken for the body's
        emit(events.END_NOT_EARLY, task_id=request.id, error=error)


def _without_hooks(task_id: str) -> Any:
    """The body that runs here, where no code of the user's follows it."""
    running = running_body(task_id)
    if running is None or running.end is None or _has_hooks(running.task.__class__) or task_success.receivers:
        return None
    return running


def _told(
    backend: Any, store: Callable[[], Any], running: Running, expected: ExpectedEnd, result: Any, request: Any,
    later: UnstoredResult | None = None,
) -> Any:  # fmt: skip
    """Have a success stored and told; returns what Celery's storing does."""
    announcer, brought = running.task.app.perpetual.announcer, None
    if backend is not None and later is not None:
        brought = announcer.result_to_store(backend, expected.task_id, result, request)
    head = head_of(running, request, SUCCESS, result=result)
    is_announced = False
    if brought is not None:
        reply = announcer.announce_with_result(expected, SUCCESS, head, brought, later)
        is_announced = reply is None or not reply.has_done_nothing
        if reply is None or reply.is_stored:
            running.over = True
            return None
        if reply.verdict == FORBIDDEN:
            leave_to_celery(backend)
    stored = store()
    if is_announced:
        running.over = True
        if running.unstored is not None:
            announcer.store_later(expected, running.unstored)
        return stored
    try:
        announcer.announce_expected(expected, SUCCESS, head, unstored=running.unstored)
    except Exception as error:  # a time limit for example: the task has succeeded all the same
        emit(events.END_NOT_EARLY, task_id=expected.task_id, error=error)
    else:
        running.over = True
    return stored


@cache
def _has_hooks(cls: Any) -> bool:
    bare = object.__new__(cls)  # Celery looks at the class only, and asks for a task
    return bool(task_has_custom(bare, "on_success") or task_has_custom(bare, "after_return"))
