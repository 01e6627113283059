"""Follow-ups: items that a task of the unit has named when it succeeded (``after_success``).

They wait in the store, and the next poll of the unit brings them into the ledger as it does what ``next_batch`` finds:
under the unit's claim, once per key, within the room. A poll that was made for them leaves ``next_batch`` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.ledger.record import read_item
from celery_perpetual.polling.reading import ReadBatch, sort_items
from celery_perpetual.store.commands.follow_ups import TRIGGER, waiting_follow_ups

if TYPE_CHECKING:
    from celery_perpetual.ledger.ledger import Ledger
    from celery_perpetual.polling.claims import Claim


def found_follow_ups(ledger: Ledger, claim: Claim) -> ReadBatch | None:
    """The follow-ups that fit, or None where ``next_batch`` is to be called.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    contract = claim.contract
    if contract.after_success is None:
        return None
    most = min(contract.options.limit, contract.max_in_flight - claim.in_flight)
    records = waiting_follow_ups(ledger.store, claim.unit.name, most)
    if not records:
        return ReadBatch() if claim.trigger == TRIGGER else None
    items = [read_item(record, contract.name) for record in records]
    part = sort_items(ledger, claim, items, set(), backs_off=False)
    return ReadBatch(
        items=part.fresh,
        read=len(items),
        duplicates=part.duplicates,
        follow_ups=len(items),
        # At a slot of the unit next_batch has its turn after them; more of them may wait, too.
        more=claim.trigger != TRIGGER or len(items) == most,
    )
