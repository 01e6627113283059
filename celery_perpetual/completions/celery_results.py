"""Stores results in Celery's backend for tasks that end without Celery storing a state, so that ``get()`` wakes.

With ``result_backend_always_retry`` a backend tries for ever, which is right in a process that runs one task. Much of
this runs in a worker's main process, where all tasks would wait, so the tries are bounded here. What a backend cannot
store, the store keeps for it, see :mod:`.owing`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendError, TaskRevokedError
from kombu.exceptions import OperationalError

from celery_perpetual import events
from celery_perpetual.completions.owing import OwedResult, backend_of, owe
from celery_perpetual.store.refusals import is_outage
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

#: Repeats of a question; as many as Celery's own worker allows itself where it asks for the state of a lost task.
#: Storing a result is not repeated: Celery's Redis backend would try for some seventeen seconds.
MOST_RETRIES = 3


def store_failure(app: Celery, task: Any, task_id: str, exception: Exception, request: Any = None) -> None:
    """Store a failure; the rest of the chain and the chord of ``request`` are failed by it as by any other."""
    if request is not None and request.is_eager:
        return
    stores = _stores(task, request)
    try:
        bounded(backend_of(app, task), 0).mark_as_failure(task_id, exception, request=request, store_result=stores)
    except Exception as error:
        owed = OwedResult(
            task=_name(task, request), state=states.FAILURE, exception=exception, request=request, stores=stores
        )
        owe(app, task_id, owed, error)


def store_failure_if_pending(
    app: Celery, task: Any, task_id: str, exception: Exception, state: str = states.FAILURE
) -> None:  # fmt: skip
    """Store a failure, or another state that is an error, where no final state is stored yet."""
    backend = backend_of(app, task)
    if isinstance(backend, DisabledBackend) or not _stores(task, None):
        return
    try:
        if bounded(backend).get_state(task_id) not in states.READY_STATES:
            bounded(backend, 0).mark_as_failure(task_id, exception, state=state)
    except Exception as error:
        owe(app, task_id, OwedResult(task=_name(task), state=state, exception=exception), error)


def is_success(app: Celery, task: Any, task_id: str) -> bool:
    """Whether Celery has stored the success of a task."""
    return _state_of(app, task, task_id) == states.SUCCESS


def is_pending(app: Celery, task: Any, task_id: str) -> bool:
    """Whether Celery has no result of a task that it could have; False where its backend does not say."""
    return (state := _state_of(app, task, task_id)) is not None and state not in states.READY_STATES


def _state_of(app: Celery, task: Any, task_id: str) -> str | None:
    """The state that Celery has stored; None where its backend does not say."""
    backend = backend_of(app, task)
    if isinstance(backend, DisabledBackend):
        return None
    try:
        return str(bounded(backend).get_state(task_id))
    except Exception as error:
        emit(events.RESULT_NOT_READ, task_id=task_id, error=error)
        return None


def store_expired(app: Celery, task: Any, task_id: str) -> None:
    """Store that a task was revoked because it has expired, as Celery does."""
    _store_revoked(app, task, task_id, "expired", stores=_stores(task, None))


def store_revoked(app: Celery, task_id: str, reason: str) -> None:
    """Store that a task was revoked."""
    _store_revoked(app, None, task_id, reason)


def _store_revoked(app: Celery, task: Any, task_id: str, reason: str, *, stores: bool = True) -> None:
    try:
        bounded(backend_of(app, task), 0).mark_as_revoked(task_id, reason, store_result=stores)
    except Exception as error:
        if stores:
            owed = OwedResult(task=_name(task), state=states.REVOKED, exception=TaskRevokedError(reason))
            owe(app, task_id, owed, error)


def bounded(backend: Any, retries: int = MOST_RETRIES) -> Any:
    """A backend that shares the connections of ``backend`` and repeats a call only so many times."""
    waits = isinstance(backend, RedisBackend) and not retries
    if getattr(backend, "always_retry", False) is not True and not waits:
        return backend
    if waits:
        backend.client  # noqa: B018  # shared by the copy only if it is there; makes no connection
    # A copy, because the backend may be shared by threads that run tasks. Python's own would be another backend, of the
    # current app, as it makes one from what is pickled.
    impatient = object.__new__(type(backend))
    impatient.__dict__.update(backend.__dict__)
    impatient.max_retries = min(backend.max_retries, retries)
    if waits:
        impatient.retry_policy = {**backend.retry_policy, "max_retries": 0}
    return impatient


def passes(backend: Any, error: BaseException) -> bool:
    """Whether an error of a result backend is an outage; Celery wraps one with ``always_retry`` after its tries."""
    if isinstance(error, BackendError) and error.__cause__ is not None:
        error = error.__cause__
    return (
        is_outage(error) or isinstance(error, OperationalError) or bool(backend.exception_safe_to_retry(error))
    )  # fmt: skip


def name_in(request: Any) -> str | None:
    """Name of the task that a request of Celery, or of celery-batches, is for."""
    return getattr(request, "task", None) or getattr(request, "name", None)


def _name(task: Any, request: Any = None) -> str | None:
    return getattr(task, "name", None) or name_in(request)


def _stores(task: Any, request: Any) -> bool:
    asked = getattr(request, "ignore_result", None)
    ignored = getattr(task, "ignore_result", False) if asked is None else asked
    return not ignored or bool(getattr(task, "store_errors_even_if_ignored", False))
