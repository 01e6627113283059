"""Losses: the leases of a worker that is gone, and tasks whose message no process has any more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import EXPIRED
from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.leases.interest import Interest, announces, interest_by
from celery_perpetual.leases.on_lost import when_lost
from celery_perpetual.ledger.ids import item_address, item_slots
from celery_perpetual.store.commands.batches import UNIT, batch
from celery_perpetual.store.commands.leases import state_of
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.task import HEADER

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants
    from celery_perpetual.store.connection import Store


class TakenLeases(NamedTuple):
    """The leases that one call took."""

    held_until: int
    """Until when nothing expires, because the store was away: ms of its time, 0 = not held."""
    worker: str
    """Whose leases they were; "" if no worker is dead."""
    taken: int
    """How many."""
    is_empty: bool
    """Whether the worker holds no more."""
    parked: list[str]
    """The tasks that were parked: id, name and recoveries of each."""


def take_leases(grants: Grants, most_now: int = 100, stopping: str = "", *, passed_over: int = 0) -> TakenLeases:
    """Take leases of one dead worker, or of the one that stops, and note what becomes of their tasks; atomic.

    Args:
        grants: of the app.
        most_now: how many leases to take at most.
        stopping: the worker that gives its own leases back; "" takes those of a dead one.
        passed_over: how many dead workers to pass over: those that have been dead longest.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    answer = script("sweep")(grants.store, most_now=most_now, stopping=stopping, passed_over=passed_over)
    held_until, worker, taken, is_empty, *facts = answer
    each = zip(facts[::3], facts[1::3], facts[2::3], strict=True)
    parked = [f"{task_id.decode()} ({task.decode()}, recovery {count})" for task_id, task, count in each]
    return TakenLeases(int(held_until), worker.decode(), int(taken), bool(is_empty), parked)


def declare_lost(
    app: Celery, grants: Grants, task_id: str, name: str, *, counts: bool, tag: str = "", copy: str = ""
) -> str:
    """Note what becomes of a task whose message no process has any more; atomic.

    Args:
        app: that knows the task.
        grants: of the app.
        task_id: of the task.
        name: of the task.
        counts: whether it counts as a recovery: its message may have killed a worker.
        tag: delivery tag of its message, where the broker still has it.
        copy: its message as JSON, where the ledger could not build it.

    Returns:
        ``resend``, ``fail``, ``parked``, or ``gone`` where it is executed, has ended, or is of no interest.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    task: Any = app.tasks.get(name)
    interest = interest_by(grants.settings, task, task_id, {HEADER: 1})
    if not interest:
        return "gone"
    where = item_slots(grants.store.keys, task_id)
    del where["poll"]
    most, on_lost = when_lost(task)
    if Interest.LEASE not in interest:
        counts, on_lost = True, "fail"  # it is not known whether it ran
    state = state_of(grants.store, task_id)
    if _is_run(grants.store, task_id):
        # A run of a routine is not parked: it ends, and the routine decides how it goes on.
        on_lost = "fail" if (0 if state is None else state.recoveries) + counts > most else "requeue"
    verdict = script("declare_lost")(
        grants.store, **where, id=task_id, task=name, most=most, on_lost=on_lost,
        recoveries=0 if state is None else state.recoveries, counts=int(counts), tag=tag, copy=copy,
    )  # fmt: skip
    return str(verdict.decode())


def _is_run(store: Store, task_id: str) -> bool:
    """Whether an item is a run of a routine."""
    where = item_address(task_id)
    found = None if where is None else batch(store, where.poll_id)
    return found is not None and found.owner != UNIT


def end_as_expired(app: Celery, task_id: str, name: str) -> None:
    """End an item whose time has expired before a worker has received its message; no error is raised."""
    task: Any = app.tasks.get(name)
    celery_results.store_expired(app, task, task_id)
    announce(app, TaskEnd(task_id=task_id, task=name, status=EXPIRED, nonce="*", announce=announces(task)))


def announce(app: Celery, end: TaskEnd) -> None:
    """Announce an end that no worker has stored; an app that is not wired announces none."""
    perpetual: Any = getattr(app, "perpetual", None)
    if perpetual is not None:
        perpetual.announcer.announce(end)
