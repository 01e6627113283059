"""Tasks that an operator names: whether they can be ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery.exceptions import TaskRevokedError

from celery_perpetual.completions.celery_results import is_pending
from celery_perpetual.completions.completion import FAILURE, NEEDS_ATTENTION, UNKNOWN, Completion
from celery_perpetual.errors import NotSuccessful
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.store.commands.leases import lease_and_trace
from celery_perpetual.store.commands.records import are_open
from celery_perpetual.store.commands.workers import living_workers
from celery_perpetual.waiting.blocking import Waiting
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.store.connection import Store


def can_be_ended(namespace: Namespace, task_id: str) -> bool:
    """Whether a task of this id is known and has not ended; a parked one has not.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return _end_of(namespace, task_id) is None and _is_known(namespace.store, task_id)


def half_ended(namespace: Namespace, task_id: str, status: str) -> Completion | None:
    """The end of a task by an operator of which Celery has no result: the operator's process has died in between.

    None for every other task. One that ended by itself may have no result either, as it ignores it or it has expired.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    end = _end_of(namespace, task_id)
    if end is None or end.status != status or end.worker is not None or end.error is None:
        return None
    is_operators = end.error["type"] == type(operators_error(status, "")).__name__
    return end if is_operators and is_pending(namespace.app, None, task_id) else None


def operators_error(status: str, reason: str) -> Exception:
    """The error in the completion of a task that an operator ends in this way."""
    return NotSuccessful(reason) if status == FAILURE else TaskRevokedError(reason)


def _end_of(namespace: Namespace, task_id: str) -> Completion | None:
    """How a task has ended; None where it has not, or nothing is known of it."""
    known = Waiting(Lookup(namespace.app, namespace.store), Hub(namespace.store)).now(task_id)
    has_ended = known is not None and (known.final or known.status == UNKNOWN) and known.status != NEEDS_ATTENTION
    return known if has_ended else None


def _is_known(store: Store, task_id: str) -> bool:
    """Whether there is a task of this id, as far as anything of it is stored."""
    where = item_address(task_id)
    return (
        (where is not None and are_open(store, [where.place])[0])
        or lease_and_trace(store, task_id)[1]
        or any(task_id in worker.tags.values() for worker in living_workers(store))
    )
