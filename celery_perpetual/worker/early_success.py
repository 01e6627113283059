"""A success is announced as soon as Celery has stored it, and at once where Celery has nothing to store.

``task_postrun`` comes later: Celery makes a representation of the result first, and a waiter would wait for
that too. Only where code of the user's follows the storing (a hook of the task, a receiver of
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
from celery_perpetual.completions.backlog import UnstoredResult
from celery_perpetual.completions.chords import publish_claimed_body
from celery_perpetual.completions.completion import SUCCESS
from celery_perpetual.completions.end import FORBIDDEN, LATE
from celery_perpetual.completions.result_in_script import leave_to_celery
from celery_perpetual.leases.execution import Execution
from celery_perpetual.leases.time_limits import time_to_end
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.backend_outages import result_for_later, store_or_keep
from celery_perpetual.worker.signals import head_of, running_body


def watch_results() -> None:
    """Wrap the storing of successes; once per process. A backend with a ``mark_as_done`` of its own is left."""
    original = Backend.mark_as_done
    if getattr(original, "perpetual", False):
        return

    @wraps(original)
    def mark_as_done(
        self: Any, task_id: str, result: Any, request: Any = None, store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> Any:  # fmt: skip
        execution, later = running_body(task_id), None
        if store_result and request is not None and not request.ignore_result and execution is not None:
            later = result_for_later(self, task_id, original, {"result": result, "state": state}, request=request)

        def store() -> Any:
            if later is None:
                stored = original(self, task_id, result, request, store_result, state)
            else:
                stored = store_or_keep(task_id, later)
            if execution is not None and execution.recoveries:
                _go_on_with_chord(execution, self, request, result)
            return stored

        if execution is None or not _may_be_early(execution) or state != states.SUCCESS:
            return store()
        return _store_and_announce(execution, self if store_result else None, store, result, request, later)

    mark_as_done.perpetual = True  # type: ignore[attr-defined]
    Backend.mark_as_done = mark_as_done  # type: ignore[method-assign]


def _go_on_with_chord(execution: Execution, backend: Any, request: Any, result: Any) -> None:
    """Have the body of the chord published where the execution before has claimed it and died."""
    if request is None or execution.unstored is not None:
        return
    try:
        publish_claimed_body(backend, request, result, time_to_end(execution))
    except Exception as error:  # it would be taken for the body's
        emit(events.RESULT_FOLLOW_UP_FAILED, task_id=request.id, error=error)


def announce_returned(execution: Execution, request: Any, result: Any) -> None:
    """Announce a success of which Celery will neither store nor send anything: nothing else can become of it."""
    task = execution.task
    if not _may_be_early(execution) or request.callbacks or request.chain or request.chord:
        return
    if not (task.ignore_result or request.ignore_result or isinstance(task.backend, DisabledBackend)):
        return
    assert execution.end is not None
    try:
        head = head_of(execution, execution.end, SUCCESS, result=result)
        _announce(execution, head)
    except Exception as error:  # it would be taken for the body's
        emit(events.END_NOT_EARLY, task_id=request.id, error=error)


def _announce(execution: Execution, head: str) -> None:
    """Announce a success of which nothing is to be stored in the same step."""
    task, expected = execution.task, execution.end
    task.app.perpetual.announcer.announce_expected(
        expected, SUCCESS, head, unstored=execution.unstored, within=time_to_end(execution)
    )
    execution.is_over = True


def _may_be_early(execution: Execution) -> bool:
    """Whether the body has returned and none of the user's code follows it."""
    if not execution.has_returned or execution.is_over or execution.successor or execution.end is None:
        return False
    return not (_has_hooks(execution.task.__class__) or task_success.receivers)


def _store_and_announce(
    execution: Execution, backend: Any, store: Callable[[], Any], result: Any, request: Any,
    later: UnstoredResult | None = None,
) -> Any:  # fmt: skip
    """Have a success stored and announced; returns what Celery's storing does."""
    announcer, expected, to_store = execution.task.app.perpetual.announcer, execution.end, None
    assert expected is not None
    if backend is not None and later is not None:
        to_store = announcer.result_to_store(backend, expected.task_id, result, request)
    head = head_of(execution, expected, SUCCESS, result=result)
    is_announced = False
    if to_store is not None:
        reply = announcer.announce_expected(
            expected, SUCCESS, head, result=to_store, unstored=later, within=time_to_end(execution)
        )
        is_announced = reply is None or not reply.has_done_nothing
        # Another end counts, and so does its result.
        is_late = execution.leased and reply is not None and reply.verdict == LATE
        if reply is None or reply.result_stored or is_late:
            execution.is_over = True
            return None
        if reply.verdict == FORBIDDEN:
            leave_to_celery(backend)
    stored = store()
    if is_announced:
        execution.is_over = True
        if execution.unstored is not None:
            announcer.store_later(expected, execution.unstored)
        return stored
    try:
        _announce(execution, head)
    except Exception as error:  # a time limit for example: the task has succeeded all the same
        emit(events.END_NOT_EARLY, task_id=expected.task_id, error=error)
    return stored


@cache
def _has_hooks(cls: Any) -> bool:
    bare = object.__new__(cls)  # Celery reads only the class, but asks for a task
    return bool(task_has_custom(bare, "on_success") or task_has_custom(bare, "after_return"))
