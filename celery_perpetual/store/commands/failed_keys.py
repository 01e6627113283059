"""Item keys whose task ended other than by success: until when they are held back, and what is known of their ends."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isinf
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class KeyFailures(NamedTuple):
    """The store's facts on one key that has failed."""

    times: int
    """Ends in a row that were no success."""
    at: int
    """When the last one was, ms of the store's time."""
    status: str
    """How it ended."""
    error: str
    """Type and message of what was raised, "" where nothing was."""

    @classmethod
    def read(cls, text: bytes) -> KeyFailures:
        times, at, status, error = text.decode(errors="replace").split("|", 3)
        return cls(int(times), int(at), status, error)

    @property
    def text(self) -> str:
        """How it ended, and what was raised."""
        return f"{self.status}: {self.error}" if self.error else self.status


#: Of a key whose failures are not on record.
NO_FAILURE = KeyFailures(0, 0, "unknown", "")


class FailedKey(NamedTuple):
    """One item key that polls leave out, or have left out."""

    key: str
    until: int | None
    """Milliseconds of the store's time; None = parked."""
    last: KeyFailures


class HeldKeys(NamedTuple):
    """The item keys of one unit that its polls leave out because they have failed."""

    held_back: int
    """Those that are free again by themselves."""
    parked: int
    """Those that wait for an operator."""
    next_free_at: int | None
    """When the first one is free, ms of the store's time; None where none is held back."""
    last: KeyFailures | None
    """The latest failure, of the hundred keys that are free first."""


def held_keys(store: Store, unit: str, now: int) -> set[str]:
    """The item keys of a unit that are held back at ``now`` (ms of the store's time), or parked."""
    with store.errors("failed keys"):
        found = store.redis.zrangebyscore(store.keys.failed(unit), f"({now}", "+inf")
    return {key.decode() for key in found}


def left_out_count(store: Store, unit: str, now: int) -> int:
    """How many item keys of a unit are in flight, held back at ``now`` (ms), or parked."""
    keys = store.keys
    with store.errors("failed keys"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.hlen(keys.item_keys(unit))
        pipe.zcount(keys.failed(unit), f"({now}", "+inf")
        return sum(pipe.execute())


def failed_key(store: Store, unit: str, key: str) -> FailedKey | None:
    """The failures of one item key, None where it has none."""
    keys = store.keys
    with store.errors("failed keys"):
        until, text = store.redis.zscore(keys.failed(unit), key), store.redis.hget(keys.failures(unit), key)
    return None if until is None else _failed_key(key, until, text)


def failed_keys(store: Store, unit: str, now: int) -> Iterator[FailedKey]:
    """The item keys of a unit that are held back at ``now`` (ms) or parked, those that are free first."""
    keys, skip = store.keys, 0
    while True:
        with store.errors("failed keys"):
            part = store.redis.zrangebyscore(keys.failed(unit), f"({now}", "+inf", skip, CHUNK, withscores=True)
            texts = store.redis.hmget(keys.failures(unit), [key for key, _ in part]) if part else []
        yield from (_failed_key(key.decode(), until, text) for (key, until), text in zip(part, texts, strict=True))
        skip += CHUNK
        if len(part) < CHUNK:
            return


def _failed_key(key: str, until: float, text: bytes | None) -> FailedKey:
    return FailedKey(key, None if isinf(until) else int(until), KeyFailures.read(text) if text else NO_FAILURE)


def allow_key(store: Store, unit: str, key: str) -> bool:
    """Free an item key that is held back or parked, and forget its failures, in one step; False if nothing held it."""
    keys = store.keys
    return bool(script("allow")(store, failed=keys.failed(unit), failures=keys.failures(unit), item_key=key))


def held_counts(store: Store, units: Sequence[str], now: int) -> list[tuple[int, int]]:
    """How many item keys of each unit are held back at ``now`` (ms), and how many are parked."""
    keys = store.keys
    with store.errors("failed keys"):
        pipe = store.redis.pipeline(transaction=False)
        for unit in units:
            pipe.zcount(keys.failed(unit), f"({now}", "(+inf")
            pipe.zcount(keys.failed(unit), "+inf", "+inf")
        rows = iter(pipe.execute())
    return list(zip(rows, rows, strict=True))


def held_of_unit(store: Store, unit: str, now: int) -> HeldKeys:
    """The keys that polls of a unit leave out at ``now`` (ms)."""
    ((held_back, parked),) = held_counts(store, [unit], now)
    with store.errors("failed keys"):
        first = store.redis.zrangebyscore(store.keys.failed(unit), f"({now}", "+inf", 0, 100, withscores=True)
        return HeldKeys(
            held_back, parked, int(first[0][1]) if held_back and first else None, _latest(store, unit, first)
        )


def _latest(store: Store, unit: str, first: Sequence[tuple[bytes, float]]) -> KeyFailures | None:
    if not first:
        return None
    texts = store.redis.hmget(store.keys.failures(unit), [key for key, _ in first])
    return max((KeyFailures.read(text) for text in texts if text), key=lambda each: each.at, default=None)
