"""Keys that hold something else than the package has written there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.scripts import all_scripts

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store
    from celery_perpetual.store.keys import Keys

#: Units, and workers, whose keys are read.
MOST = 500

#: Keys that no script uses, by their names.
_OF_NO_SCRIPT = {"stats": "hash", "tenants_failed": "hash", "cycle": "string", "watching": "string"}

_TYPES = {"string", "hash", "list", "set", "zset", "stream"}


class WrongType(NamedTuple):
    """A key of another type than it should have."""

    key: str
    seen: str
    wanted: str


def wrong_types(store: Store) -> list[WrongType]:
    """Compare the types of the namespace's keys, and of those of its first units and workers, with what scripts expect.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    keys = store.keys
    named = {name: getattr(keys, name, None) for name in _declared()}
    wrong = _wrong(store, {key: _declared()[name] for name, key in named.items() if isinstance(key, str)})
    unreadable = {each.key for each in wrong}
    with store.errors("types"):
        units = [] if keys.units in unreadable else store.redis.zrange(keys.units, 0, MOST - 1)
        workers = [] if keys.workers in unreadable else store.redis.zrange(keys.workers, 0, MOST - 1)
    return wrong + _wrong(store, dict(_of_owners(keys, units, workers)))


@cache
def _declared() -> dict[str, str]:
    """Types of keys by the names of their slots, from the headers of all scripts."""
    return _OF_NO_SCRIPT | {
        name: kind.rstrip("*")
        for script in all_scripts()
        for name, kind in script.header.keys.items()
        if kind.rstrip("*") in _TYPES
    }


def _of_owners(keys: Keys, units: list[bytes], workers: list[bytes]) -> Iterator[tuple[str, str]]:
    """The keys of units and of workers, by the slots in which scripts get them."""
    of_unit: dict[str, Callable[[str], str]] = {
        "unit_hash": keys.unit, "item_keys": keys.item_keys, "recent": keys.recent, "before": keys.recent_before,
        "failed": keys.failed, "failures": keys.failures, "polls": keys.polls, "follow_ups": keys.follow_ups,
    }  # fmt: skip
    of_worker: dict[str, Callable[[str], str]] = {
        "held": keys.held, "worker_info": keys.worker, "received": keys.tags
    }  # fmt: skip
    for names, slots in ((units, of_unit), (workers, of_worker)):
        for name in names:
            for slot, key in slots.items():
                yield key(name.decode()), _declared()[slot]


def _wrong(store: Store, wanted: dict[str, str]) -> list[WrongType]:
    if not wanted:
        return []
    with store.errors("types"):
        pipe = store.redis.pipeline(transaction=False)
        for key in wanted:
            pipe.type(key)
        seen = [each.decode() for each in pipe.execute()]
    found = zip(wanted.items(), seen, strict=True)
    return [WrongType(key, kind, right) for (key, right), kind in found if kind not in ("none", right)]
