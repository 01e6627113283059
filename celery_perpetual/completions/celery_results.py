"""Stores results in Celery's backend for tasks that end without Celery storing a state, so that ``get()`` wakes.

With ``result_backend_always_retry`` a backend tries for ever, which is right in a process that runs one task. Much of
this runs in a worker's main process, where all tasks would wait, so the tries are bounded here.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend

from celery_perpetual import events
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Repeats of a question; as many as Celery's own worker allows itself where it asks for the state of a lost task.
#: Storing a result is not repeated: Celery's Redis backend tries for some seventeen seconds each time.
MOST_RETRIES = 3


def store_failure(app: Celery, task: Any, task_id: str, exception: Exception, request: Any = None) -> None:
    """Store a failure; the rest of the chain and the chord of ``request`` are failed by it as by any other."""
    if request is not None and request.is_eager:
        return
    try:
        backend = bounded(_backend(app, task), 0)
        backend.mark_as_failure(task_id, exception, request=request, store_result=_stores(task, request))
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)


def store_failure_if_pending(
    app: Celery, task: Any, task_id: str, exception: Exception, state: str = states.FAILURE
) -> None:  # fmt: skip
    """Store a failure, or another state that is an error, where no final state is stored yet."""
    if not _stores(task, None) or not is_pending(app, task, task_id):
        return
    try:
        bounded(_backend(app, task), 0).mark_as_failure(task_id, exception, state=state)
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)


def is_success(app: Celery, task: Any, task_id: str) -> bool:
    """Whether Celery has stored the success of a task."""
    return _state_of(app, task, task_id) == states.SUCCESS


def is_pending(app: Celery, task: Any, task_id: str) -> bool:
    """Whether Celery has no result of a task that it could have; False where its backend does not say."""
    return (state := _state_of(app, task, task_id)) is not None and state not in states.READY_STATES


def _state_of(app: Celery, task: Any, task_id: str) -> str | None:
    """The state that Celery has stored; None where its backend does not say."""
    backend = _backend(app, task)
    if isinstance(backend, DisabledBackend):
        return None
    try:
        return str(bounded(backend).get_state(task_id))
    except Exception as error:
        emit(events.RESULT_NOT_READ, task_id=task_id, error=error)
        return None


def count_in_chord(app: Celery, task: Any, request: Any) -> None:
    """Count a task whose success is stored in the chord that it belongs to, if it belongs to one.

    Its process may have died between the two. A Redis backend knows which tasks it has counted; others count twice what
    is counted twice, so there nothing is done.

    Args:
        app: of the task.
        task: that has succeeded.
        request: the task's, as Celery's own code gets it.
    """
    backend = _backend(app, task)
    if not request.chord or not isinstance(backend, RedisBackend):
        return
    try:
        bounded_backend = bounded(backend, 0)
        result = bounded_backend.get_result(request.id)
        bounded_backend.on_chord_part_return(request, states.SUCCESS, result)
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=request.id, error=error)


def store_expired(app: Celery, task: Any, task_id: str) -> None:
    """Store that a task was revoked because it has expired, as Celery does; an error of the backend is reported."""
    try:
        bounded(_backend(app, task), 0).mark_as_revoked(task_id, "expired", store_result=_stores(task, None))
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)


def store_revoked(app: Celery, task_id: str, reason: str) -> None:
    """Store that a task was revoked.

    Raises:
        Exception: what the backend raises where it cannot be reached.
    """
    bounded(_backend(app, None), 0).mark_as_revoked(task_id, reason)


def bounded(backend: Any, retries: int = MOST_RETRIES) -> Any:
    """A backend that shares the connections of ``backend`` and repeats a call only so many times."""
    if getattr(backend, "always_retry", False) is not True:
        return backend
    # A copy, because the backend may be shared by threads that run tasks.
    impatient = copy(backend)
    impatient.max_retries = min(backend.max_retries, retries)
    return impatient


def _backend(app: Celery, task: Any) -> Any:
    return getattr(task, "backend", None) or app.backend


def _stores(task: Any, request: Any) -> bool:
    asked = getattr(request, "ignore_result", None)
    ignored = getattr(task, "ignore_result", False) if asked is None else asked
    return not ignored or bool(getattr(task, "store_errors_even_if_ignored", False))
