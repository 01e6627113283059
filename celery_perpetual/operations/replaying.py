"""Enqueues again what has ended otherwise than by success: the items of a batch, or one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kombu.utils.json import dumps as json_dumps

from celery_perpetual.errors import NotFound
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import read_item
from celery_perpetual.operations.lookup import find
from celery_perpetual.operations.polls import busy
from celery_perpetual.polling.claims import Claims, Refusal
from celery_perpetual.store.commands.ended import ended_records, forget_ended
from celery_perpetual.store.commands.failed_keys import allow_key
from celery_perpetual.store.commands.lock import Lock
from celery_perpetual.store.commands.records import done_records
from celery_perpetual.tasks.names import parse_unit_name
from celery_perpetual.tasks.task import REPLAY_HEADER

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.polling.outcome import PollOutcome
    from celery_perpetual.store.connection import Store

#: Seconds after which another call may begin where a process has ended within one.
LOCK_SECONDS = 60.0

#: Why such a poll takes place.
TRIGGER = "replay"


def replay(namespace: Namespace, poll_id: str, task_ids: list[str] | None, *, only_failed: bool) -> PollOutcome:
    """Enqueue items of a batch again, under new ids, as one poll by hand of their unit; one call per batch at once.

    Args:
        namespace: of the app.
        poll_id: of the batch.
        task_ids: of these items only; None: of all.
        only_failed: leave those out that have succeeded.

    Raises:
        NotFound: the store does not know the batch, or has the records of none of these items any more.
        UnknownTask, UnknownUnit: its unit is not there any more.
        StoreUnavailable: the store did not answer.
    """
    lock = Lock(namespace.store, namespace.store.keys.replaying(poll_id), LOCK_SECONDS)
    has_it = lock.acquire()
    try:
        return _replay(namespace, poll_id, task_ids, lock if has_it else None, only_failed=only_failed)
    finally:
        if has_it:
            lock.release()


def _replay(
    namespace: Namespace, poll_id: str, task_ids: list[str] | None, lock: Lock | None, *, only_failed: bool
) -> PollOutcome:
    store = namespace.store
    unit_name, items = _ended_items(store, poll_id, task_ids, only_failed=only_failed)
    task, tenant = parse_unit_name(unit_name)
    unit = find(namespace.app, task, tenant, or_departed=True)
    if lock is None:  # another call is about to enqueue what was read here
        return busy(Refusal(unit, "busy", store.now()))
    claim = Claims(store).by_hand(unit)
    if isinstance(claim, Refusal):
        return busy(claim)
    claim.trigger = TRIGGER
    runner = namespace.runner
    lock.keep()
    if task_ids is not None:
        for key in {item.key for item in items if item.key is not None}:  # also parked ones: each item was named
            allow_key(store, unit_name, key)
    try:
        end, taken = runner.enqueue(claim, items)
        outcome = runner.ends.store_one(end)
    finally:
        runner.publisher.release()
    assert outcome is not None, "a poll by hand does not travel"
    if outcome.count:
        forget_ended(store, poll_id, [item.options["headers"][REPLAY_HEADER] for item in taken])
    return outcome


def _ended_items(
    store: Store, poll_id: str, task_ids: list[str] | None, *, only_failed: bool
) -> tuple[str, list[CheckedItem]]:
    """The unit of a batch, and the items that are to be enqueued again."""
    unit, task, records = ended_records(store, poll_id)
    if unit is None:
        raise NotFound(
            f"replay: the store knows no batch {poll_id!r} of a perpetual task; it forgets one a week after its end"
        )
    if not only_failed:
        records |= done_records(store, poll_id)
    wanted = sorted(each for each in records if task_ids is None or each in task_ids)
    if not wanted:
        raise NotFound(
            f"replay: no item of {poll_id} can be enqueued again; records are kept for a day, of items that have ended "
            "otherwise than by success"
        )
    return unit, [_again(read_item(records[each], task), each) for each in wanted]


def _again(item: CheckedItem, task_id: str) -> CheckedItem:
    """An item whose message says which one it repeats; times that it was given are over."""
    options = {name: value for name, value in item.options.items() if name not in ("eta", "expires")}
    options["headers"] = {**(options.get("headers") or {}), REPLAY_HEADER: task_id}
    return item._replace(options=options, options_json=str(json_dumps(options)))


def poll_of(task_id: str) -> str:
    """The poll whose item a task is.

    Raises:
        NotFound: it is no item.
    """
    where = item_address(task_id)
    if where is None:
        raise NotFound(f"retry: {task_id!r} is no item of a perpetual task; send it again as any task of Celery")
    return where.poll_id
