"""Stores in Celery's backend the results that it is owed, entry by entry; each cycle does it.

An entry that cannot be done is put off, ever longer, and given up after a day. A task that has another result by now,
as it ran again, keeps that one; one that runs just now is left until it has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import DisabledBackend
from celery.backends.rpc import RPCBackend

from celery_perpetual import events
from celery_perpetual.completions.celery_results import bounded
from celery_perpetual.completions.owing import OwedResult, backend_of, paying
from celery_perpetual.errors import PerpetualError
from celery_perpetual.store.commands.leases import lease_of
from celery_perpetual.store.commands.owed import is_listed, owed_result, remove_owed
from celery_perpetual.store.work_list import WorkList
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store

#: Entries per pass.
MOST_AT_ONCE = 100


def owed_list(store: Store) -> WorkList:
    """The tasks whose results are owed."""
    return WorkList(
        store, store.keys.owed, lambda task_id, error: emit(events.RESULT_DELAYED, task_id=task_id, error=error)
    )  # fmt: skip


def store_owed(app: Celery, store: Store, waiting: WorkList) -> int:
    """Store what is owed and due; returns how many entries are off the list.

    Raises:
        StoreUnavailable: the store did not answer.
    """

    def work(task_id: str) -> int:
        with paying(task_id):
            _store(app, store, task_id)
        remove_owed(store, task_id)
        return 1

    return waiting.work_off(work, MOST_AT_ONCE)


def _store(app: Celery, store: Store, task_id: str) -> None:
    text = owed_result(store, task_id)
    if text is None:
        if not is_listed(store, task_id):
            return  # another pass has stored it
        emit(events.RESULT_NOT_STORED, task_id=task_id, error=TimeoutError("it could not be stored for a day"))
        return
    owed = OwedResult.from_text(text)
    task = app.tasks.get(owed.task or "")
    if task is None and owed.own_backend:
        raise PerpetualError(f"task {owed.task!r} has a result backend of its own, and this process does not know it")
    backend = bounded(backend_of(app, task), 0)
    if isinstance(backend, DisabledBackend):
        raise PerpetualError("this process has no result backend")
    exception = backend.exception_to_python(owed.exception)
    if isinstance(backend, RPCBackend) and owed.request is None:
        emit(events.RESULT_REFUSED, task_id=task_id, error=LookupError("it is not known who waits for the result"))
        return
    # The lease first: one that is released in between has stored its result before.
    if lease_of(store, task_id) is not None:
        raise PerpetualError("its task runs")
    if owed.stores and _has_another(backend, task_id, owed.state, exception):
        return
    if owed.state == states.REVOKED:
        reason = str(exception.args[0]) if exception.args else ""
        backend.mark_as_revoked(task_id, reason, request=owed.request, store_result=owed.stores)
    else:
        backend.mark_as_failure(
            task_id, exception, traceback=owed.traceback, request=owed.request, store_result=owed.stores,
            state=owed.state,
        )  # fmt: skip


def _has_another(backend: Any, task_id: str, state: str, exception: Any) -> bool:
    """Whether Celery has a result that is not the owed one. That one may be there: what follows it is done again."""
    found = backend.get_task_meta(task_id)
    if found["status"] not in states.READY_STATES:
        return False
    return found["status"] != state or str(found.get("result")) != str(exception)
