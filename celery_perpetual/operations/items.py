"""The items of one unit: those in flight, and the keys that polls leave out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import ContractError
from celery_perpetual.hints import hint
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.ledger.ids import item_address, item_id, made_at
from celery_perpetual.ledger.key_holders import holder_of
from celery_perpetual.operations.item_facts import NOTHING, ItemFacts, as_json, facts_of, facts_of_items
from celery_perpetual.store.chunks import CHUNK, chunk_count
from celery_perpetual.store.commands.batches import open_batches_of
from celery_perpetual.store.commands.failed_keys import FailedKey, failed_key, failed_keys
from celery_perpetual.store.commands.leases import leases_of, states_of
from celery_perpetual.store.commands.records import Stored, open_records
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store
    from celery_perpetual.tasks.contract import TaskContract
    from celery_perpetual.tasks.unit import TaskUnit

#: Of an item in flight.
WAITING, RUNNING, RETRYING, REPLACED, LOST, PARKED = "waiting", "running", "retrying", "replaced", "lost", "parked"
#: Of an item key without a task.
HELD_BACK, PARKED_KEY = "held_back", "parked_key"
STATES = (WAITING, RUNNING, RETRYING, REPLACED, LOST, PARKED, HELD_BACK, PARKED_KEY)

#: The meaning of the flag of a stored state for the item.
_BY_FLAG = {"wait": RETRYING, "delegated": REPLACED, "resend": LOST, "fail": LOST, "parked": PARKED}


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemReport(JsonFields):
    """One item in flight, or one item key that polls leave out. Times are aware datetimes of the store's clock."""

    key: str | None
    """None for an item that opted out."""
    state: str
    """Of an item in flight ``waiting`` (for a worker), ``running``, ``retrying``, ``replaced`` (by another task),
    ``lost`` (to be resent) or ``parked``; of a key without a task ``held_back`` or ``parked_key``. An item that has
    ended is listed where its key is asked for, with the status of its end."""
    task_id: str | None = None
    task: str | None = None
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    since: datetime | None = None
    """When it was enqueued, or when its last failure was."""
    until: datetime | None = None
    """Until when the key is held back."""
    failures: int = 0
    """Ends in a row that were no success."""
    error: str | None = None
    """The last of these."""

    @property
    def arguments(self) -> str:
        """The arguments in one line."""
        return ItemFacts(args=self.args, kwargs=self.kwargs).arguments

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return json_fields(self) | {"args": as_json(self.args), "kwargs": as_json(self.kwargs)}


def items(store: Store, unit: TaskUnit, *, state: str | None, limit: int) -> list[ItemReport]:
    """The items of a unit, oldest first; then the keys that its polls leave out, those that are free first.

    Raises:
        ContractError: there is no such state.
        StoreUnavailable: the store did not answer.
    """
    if state is not None and state not in STATES:
        raise ContractError(f"items: there is no state {state!r}{hint(state, STATES)}")
    found = (each for each in _all(store, unit) if state is None or each.state == state)
    return list(islice(found, limit))


def item_of_key(store: Store, unit: TaskUnit, key: str) -> list[ItemReport]:
    """The item in flight under a key, or its last end, or what holds the key; at most one report.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    holder, failed = holder_of(store, unit.name, key), failed_key(store, unit.name, key)
    if holder.in_flight is not None:
        facts = facts_of_items(store, _contracts(unit), [holder.in_flight])
        return _in_flight(store, [(holder.in_flight, facts.get(holder.in_flight, NOTHING))], {key: failed})
    if failed is not None and (failed.until is None or failed.until > store.now()):
        return [_left_out(failed)]
    return []


def _all(store: Store, unit: TaskUnit) -> Iterator[ItemReport]:
    in_flight = set[str]()
    for poll_id, count in open_batches_of(store, unit.name):
        for chunk in range(chunk_count(count)):
            rows = [
                (
                    item_id(poll_id, chunk * CHUNK + position),
                    facts_of(Stored(record, unit.contract.name), _contracts(unit)),
                )
                for position, record in open_records(store, poll_id, chunk)
            ]
            in_flight.update(facts.key for _, facts in rows if facts.key is not None)
            yield from _in_flight(store, rows, {})
    now = store.now()
    for failed in failed_keys(store, unit.name, now):
        if failed.key not in in_flight:
            yield _left_out(failed)


def _in_flight(
    store: Store, rows: Sequence[tuple[str, ItemFacts]], failed: Mapping[str, FailedKey | None]
) -> list[ItemReport]:
    ids = [task_id for task_id, _ in rows]
    found = []
    for (task_id, facts), lease, state in zip(rows, leases_of(store, ids), states_of(store, ids), strict=True):
        shown = RUNNING if lease is not None else _BY_FLAG.get(state.flag, WAITING) if state is not None else WAITING
        before, where = failed.get(facts.key or ""), item_address(task_id)
        found.append(
            ItemReport(
                key=facts.key, state=shown, task_id=task_id, task=facts.task, args=facts.args, kwargs=facts.kwargs,
                since=None if where is None else to_datetime(made_at(where.poll_id)),
                failures=0 if before is None else before.last.times,
                error=None if before is None else before.last.text,
            )
        )  # fmt: skip
    return found


def _left_out(failed: FailedKey) -> ItemReport:
    return ItemReport(
        key=failed.key, state=PARKED_KEY if failed.until is None else HELD_BACK,
        since=to_datetime(failed.last.at) if failed.last.at else None,
        until=None if failed.until is None else to_datetime(failed.until),
        failures=failed.last.times, error=failed.last.text,
    )  # fmt: skip


def _contracts(unit: TaskUnit) -> dict[str, TaskContract]:
    return {unit.contract.name: unit.contract}
