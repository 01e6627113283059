"""A poll without its effects: the items that it would bring."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery_perpetual.call_apart import CallApart
from celery_perpetual.errors import StoreUnavailable, described
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.ledger.ids import new_poll_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import arguments
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.reading import ReadBatch, cursor_text
from celery_perpetual.polling.runner import Runner
from celery_perpetual.store.commands.units import unit_facts
from celery_perpetual.tasks.items import UNSET, Defer, Skip
from celery_perpetual.tasks.unit import TaskUnit

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview(JsonFields):
    """The result of ``next_batch`` as a poll would take it."""

    task: str
    status: str
    """The status that a poll would have: ``enqueued, empty, skipped, deferred, paused, failed, timed_out``."""
    items: tuple[dict[str, Any], ...] = ()
    """Task, args, kwargs, key and options of what is new."""
    count: int = 0
    """How many of them."""
    read: int = 0
    """How many items next_batch returned; of a generator those that were read."""
    bound: str | None = None
    """The bound of the count: ``limit`` or ``max_in_flight``; None where nothing did."""
    duplicates: int = 0
    held_back: int = 0
    """Items whose key has failed: left out until its back-off is over, or until an operator allows it."""
    left_out: int = 0
    cursor: Any = None
    """Where the cursor would be."""
    reason: str | None = None
    error: str | None = None


def preview(store: Store, runner: Runner, unit: TaskUnit, cursor: Any = UNSET) -> Preview:
    """Call ``next_batch`` and say what a poll would do. Writes nothing and takes no claim.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    contract, claim = unit.contract, _pretended(store, unit, cursor)
    call = CallApart(lambda: _preview(runner, claim), "perpetual-preview")
    if not call.is_over(contract.poll_timeout):
        claim.abandoned = True
        return Preview(task=contract.name, status="timed_out", reason=f"longer than {contract.poll_timeout:g} s")
    if call.error is None or isinstance(call.error, StoreUnavailable):
        return call.answer()
    return Preview(task=contract.name, status="failed", error=described(call.error))


def _preview(runner: Runner, claim: Claim) -> Preview:
    name, result = claim.contract.name, runner.evaluate(claim)
    if isinstance(result, Skip):
        return Preview(task=name, status="skipped", reason=result.reason)
    if isinstance(result, Defer):
        return Preview(task=name, status="deferred", reason=f"for {result.after}")
    if not isinstance(result, ReadBatch):
        return Preview(task=name, status="paused", reason=result.reason)
    if result.closed is not None:
        return Preview(
            task=name, status="skipped", reason=result.closed.gate, count=len(result.items), read=result.read,
            duplicates=result.duplicates, held_back=result.held_back,
        )  # fmt: skip
    shown = claim.contract.options.store_args
    items = tuple(_item(item, shown=shown) for item in result.items)
    return Preview(
        task=name,
        status="enqueued" if items else "empty",
        items=items,
        count=len(items),
        read=len(items) + result.duplicates + result.held_back + result.left_out,
        bound=_bound(claim, result),
        duplicates=result.duplicates,
        held_back=result.held_back,
        left_out=result.left_out,
        cursor=json.loads(cursor) if (cursor := result.cursor or claim.cursor) else None,
    )


def _bound(claim: Claim, result: ReadBatch) -> str | None:
    """The bound that cut the batch short, by us or by a query that stops at ``poll.limit``."""
    contract = claim.contract
    room, asked = contract.max_in_flight - claim.in_flight, claim.rows.count if contract.takes_poll else None
    is_cut = result.left_out > 0 or (asked is not None and result.read >= asked)
    if not is_cut and len(result.items) < min(room, contract.options.limit):
        return None
    return "max_in_flight" if room < contract.options.limit else "limit"


def _item(item: CheckedItem, *, shown: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {"task": item.task, "key": item.key, "options": dict(item.options)}
    if shown:
        facts["args"], facts["kwargs"] = arguments(item.body, item.serializer)
    return facts


def _pretended(store: Store, unit: TaskUnit, cursor: Any) -> Claim:
    now = store.now()
    (facts,) = unit_facts(store, [unit.name])
    known = facts.cursor or ""
    text = known if cursor is UNSET else cursor_text(f"cursor of {unit.contract.name}", cursor)
    return Claim(
        unit=unit,
        poll_id=new_poll_id(now),
        slot=now,
        following="",
        trigger="preview",
        cursor=text,
        in_flight=facts.in_flight,
        attempt=facts.attempt,
        failures={},
        polled=facts.polled_at,
        now=now,
    )
