"""Stores results in Celery's backend for tasks that end without Celery storing a state, so that ``get()`` wakes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend

from celery_perpetual import events
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


def store_failure(app: Celery, task: Any, task_id: str, exception: Exception, request: Any = None) -> None:
    """Store a failure; the rest of the chain and the chord of ``request`` are failed by it as by any other."""
    if request is not None and request.is_eager:
        return
    try:
        _backend(app, task).mark_as_failure(task_id, exception, request=request, store_result=_stores(task, request))
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)


def store_failure_if_pending(app: Celery, task: Any, task_id: str, exception: Exception) -> None:
    """Store a failure where no state is stored yet."""
    backend = _backend(app, task)
    if isinstance(backend, DisabledBackend) or not _stores(task, None):
        return
    try:
        if backend.get_state(task_id) not in states.READY_STATES:
            backend.mark_as_failure(task_id, exception)
    except Exception as error:
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=error)


def is_success(app: Celery, task: Any, task_id: str) -> bool:
    """Whether Celery has stored the success of a task."""
    backend = _backend(app, task)
    if isinstance(backend, DisabledBackend):
        return False
    try:
        return bool(backend.get_state(task_id) == states.SUCCESS)
    except Exception as error:
        emit(events.RESULT_NOT_READ, task_id=task_id, error=error)
        return False


def _backend(app: Celery, task: Any) -> Any:
    return getattr(task, "backend", None) or app.backend


def _stores(task: Any, request: Any) -> bool:
    asked = getattr(request, "ignore_result", None)
    ignored = getattr(task, "ignore_result", False) if asked is None else asked
    return not ignored or bool(getattr(task, "store_errors_even_if_ignored", False))
