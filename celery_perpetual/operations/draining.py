"""Drain: no new work, and a wait until what is in flight has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import PerpetualError, StoreUnavailable, is_outage
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.pauses import Paused, Pauses
from celery_perpetual.store.commands.batches import items_in_flight
from celery_perpetual.store.commands.leases import parked_ids
from celery_perpetual.store.commands.records import are_open
from celery_perpetual.store.commands.units import open_claims
from celery_perpetual.times import to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Seconds between two counts.
PAUSE = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport(JsonFields):
    """How far a drain has come."""

    started_at: datetime
    """The store's time, as all times here."""
    at: datetime
    """When this was counted."""
    pause: Paused
    """The pause of everything, which stays until it is resumed."""
    remaining: int
    """Items in flight that have not ended and are not parked."""
    polls: int
    """Polls that were under way when the pause began and have not ended; each may still enqueue a batch."""
    parked: int
    """Items that wait for an operator; a drain does not wait for them."""

    @property
    def completed(self) -> bool:
        """Whether no item and no poll is left."""
        return not (self.remaining or self.polls)

    @property
    def timed_out(self) -> bool:
        """Whether something is left; in a report that :func:`drain` returns, the time is over then."""
        return not self.completed

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return json_fields(self) | {"completed": self.completed, "timed_out": self.timed_out}


def wait_until_drained(
    store: Store, pause: Paused, timeout: float, progress: Callable[[DrainReport], object]
) -> DrainReport:
    """Count until nothing is in flight or the time is over; at least once.

    Everything is paused already: polls that begin later are by hand, and nothing is waited for on their account but
    the items that they enqueue. While the store is away nothing is counted, and the wait goes on.

    Args:
        store: the namespace.
        pause: that of everything.
        timeout: seconds.
        progress: called with each count.

    Raises:
        PerpetualError: the pause has ended before that, so that there may be new work at any time.
        StoreUnavailable: the store did not answer at the end.
    """
    deadline, started_at = time.monotonic() + timeout, store.now()
    polls, pauses = open_claims(store, started_at), Pauses(store)
    while True:
        left = deadline - time.monotonic()
        try:
            report = _count(store, pause, started_at, polls)
            has_ended = pause.scope not in pauses.now()
        except StoreUnavailable as error:
            if left <= 0 or not is_outage(error):
                raise
        else:
            if has_ended:
                raise PerpetualError(
                    f"drain: the pause of everything has ended ({report.remaining} items in flight): its time was "
                    "over, it was resumed, or the store has lost data; call drain again if nothing is to run"
                )
            progress(report)
            if report.completed or left <= 0:
                return report
        time.sleep(max(0.0, min(PAUSE, left)))


def _count(store: Store, pause: Paused, started_at: int, polls: set[str]) -> DrainReport:
    """Count once; polls that have ended are taken out of the set."""
    now = store.now()
    if polls:
        polls &= open_claims(store, now)
    # In this order: a poll that ends between the two counts has its items in the second one.
    in_flight, parked = items_in_flight(store), _parked_items(store)
    return DrainReport(
        started_at=to_datetime(started_at), at=to_datetime(now), pause=pause, polls=len(polls),
        remaining=max(0, in_flight - parked), parked=parked,
    )  # fmt: skip


def _parked_items(store: Store) -> int:
    """How many of the parked tasks are items that have not ended."""
    found = [where.place for task_id in parked_ids(store) if (where := item_address(task_id)) is not None]
    return sum(are_open(store, found)) if found else 0
