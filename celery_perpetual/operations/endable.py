"""Tasks that an operator names: whether they can be ended."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.completions.completion import NEEDS_ATTENTION, UNKNOWN
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
    return not status_of_end(namespace, task_id) and _is_known(namespace.store, task_id)


def status_of_end(namespace: Namespace, task_id: str) -> str:
    """How a task has ended; "" where it has not, or nothing is known of it.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    known = Waiting(Lookup(namespace.app, namespace.store), Hub(namespace.store)).now(task_id)
    has_ended = known is not None and (known.final or known.status == UNKNOWN) and known.status != NEEDS_ATTENTION
    return known.status if known is not None and has_ended else ""


def _is_known(store: Store, task_id: str) -> bool:
    """Whether there is a task of this id, as far as anything of it is stored."""
    where = item_address(task_id)
    return (
        (where is not None and are_open(store, [where.place])[0])
        or lease_and_trace(store, task_id)[1]
        or any(task_id in worker.tags.values() for worker in living_workers(store))
    )
