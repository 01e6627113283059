"""Which task an item key belongs to: the one in flight, or the last one that has ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from celery_perpetual.errors import ContractError
from celery_perpetual.ledger.ids import made_at, parse_item_id
from celery_perpetual.store.commands.batches import known_batches
from celery_perpetual.store.commands.records import key_facts

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class KeyHolder(NamedTuple):
    """The tasks of one item key."""

    in_flight: str | None
    """Id of the task that holds the key."""
    last: str | None
    """Id of the last one that has ended, as long as its completion is on record."""
    polled_at: int
    """When the unit's last poll began that has ended, ms of the store's time; 0 = never."""


def key_text(key: str | int | UUID) -> str:
    """An item key as it is stored and compared.

    Raises:
        ContractError: it is none.
    """
    if isinstance(key, bool) or not isinstance(key, str | int | UUID):
        raise ContractError(f"an item key is a str, an int or a UUID, got {type(key).__name__} {key!r:.80}")
    return str(key)


def holder_of(store: Store, unit: str, key: str) -> KeyHolder:
    """The tasks of an item key of a unit. A key that only a batch without a commit holds is free.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    facts = key_facts(store, unit, key)
    where = None if facts.holder is None else parse_item_id(facts.holder)
    holds = where is not None and known_batches(store, [where.poll_id])
    polled_at = 0 if facts.polled_by is None else made_at(facts.polled_by)
    return KeyHolder(facts.holder if holds else None, facts.last, polled_at)
