"""Which row is it? The item key and the arguments of tasks, as far as the ledger has them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual.ledger.ids import item_address
from celery_perpetual.ledger.record import decode
from celery_perpetual.store.commands.records import Stored, records_at

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store
    from celery_perpetual.tasks.contract import TaskContract


class ItemFacts(NamedTuple):
    """The ledger's facts on one item, for people."""

    key: str | None = None
    """None for a task that is no item, or whose item opted out."""
    args: tuple[Any, ...] | None = None
    """None where they are kept out of listings (``store_args=False``), or are not known."""
    kwargs: dict[str, Any] | None = None
    task: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Key and arguments as JSON values; what JSON does not have is shown as text."""
        return {"key": self.key, "args": as_json(self.args), "kwargs": as_json(self.kwargs)}

    @property
    def arguments(self) -> str:
        """The arguments in one line."""
        shown = [json.dumps(as_json(value)) for value in (self.args, self.kwargs) if value]
        return " ".join(shown)


#: Of a task that is no item.
NOTHING = ItemFacts()


def facts_of_items(store: Store, contracts: Mapping[str, TaskContract], ids: Sequence[str]) -> dict[str, ItemFacts]:
    """Key and arguments of those of the tasks that are items in the ledger.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    items = [(task_id, where.place) for task_id in ids if (where := item_address(task_id)) is not None]
    stored = records_at(store, [place for _, place in items])
    return {task_id: facts_of(record, contracts) for (task_id, _), record in zip(items, stored, strict=True) if record}


def facts_of(stored: Stored, contracts: Mapping[str, TaskContract]) -> ItemFacts:
    """Key and arguments of one record.

    The arguments are left out where the task says so, and where its code is not here to say it.
    """
    try:
        found = decode(stored.record, stored.unit_task)
    except Exception:  # a serializer that this process does not have, or a record of another release
        return NOTHING
    contract = contracts.get(stored.unit_task)
    if contract is None or not contract.options.store_args:
        return ItemFacts(found.key, task=found.task)
    return ItemFacts(found.key, found.args, found.kwargs, found.task)


def as_json(value: Any) -> Any:
    """A value as JSON has it."""
    return json.loads(json.dumps(value, default=str))
