"""Items that tasks have named when they succeeded, and that no poll has taken yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Why a unit is polled for which there are some.
TRIGGER = "after_success"
#: A call whose reply got lost is repeated for as long as the store is away, and not added a second time for so long.
RECEIPT_TTL_MS = 3_600_000


class FollowUps:
    """Records that one task has named for the next poll of its unit."""

    def __init__(self, unit: str, records: Sequence[bytes]) -> None:
        self._unit = unit
        self._parts = [(uuid4().hex, part) for part in chunks(records)]

    def add(self, store: Store) -> None:
        """Keep them, and let the poll come at once. May be repeated where the store did not answer.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        keys, unit = store.keys, self._unit
        while self._parts:
            call, records = self._parts[0]
            script("add_follow_ups")(
                store, unit_hash=keys.unit(unit), follow_ups=keys.follow_ups(unit), receipt=keys.receipt(call),
                unit=unit, trigger=TRIGGER, receipt_ttl=RECEIPT_TTL_MS, records=records,
            )  # fmt: skip
            del self._parts[0]


def waiting_follow_ups(store: Store, unit: str, most: int) -> list[bytes]:
    """The oldest of them, as they are stored."""
    with store.errors("follow-ups"):
        return list(store.redis.lrange(store.keys.follow_ups(unit), 0, most - 1)) if most > 0 else []


def drop_follow_ups(store: Store, unit: str, poll: str, count: int) -> bool:
    """Forget the oldest ``count``; False where another poll has the claim of the unit."""
    keys = store.keys
    return bool(
        script("drop_follow_ups")(
            store, unit_hash=keys.unit(unit), follow_ups=keys.follow_ups(unit), poll=poll, count=count
        )
    )
