"""Lists of things that are left to do, worked off entry by entry.

Such a list is a sorted set: entry -> when it is due, ms. An entry that cannot be done now is put off, for twice as long
each time, and the others go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_perpetual.errors import described, is_outage
from celery_perpetual.failures.backoff import BackOff

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

PUT_OFF = BackOff(first_ms=5_000, longest_ms=300_000)

#: The reason of a failure is kept for so many ms; the next try is earlier.
REASON_MS = 2 * PUT_OFF.longest_ms

#: Entries at one end of a list whose state is read for people.
MOST_SHOWN = 1_000

#: A call begins no entry after so many seconds.
LONGEST_CALL = 10.0

#: As in clock_step.lua, and how many times are pulled back at once.
AHEAD_MS, MOST_AHEAD = 1_000, 1_000


class WorkList:
    """One list; it remembers how often its entries have failed in this process. Two threads share its entries."""

    def __init__(
        self, store: Store, key: str, failed: Callable[[str, Exception], object], *, patience_ms: int = 0
    ) -> None:
        """Do nothing yet.

        Args:
            key: of the sorted set.
            failed: called with an entry that is put off, and why.
            patience_ms: an entry is left alone for so long after its time.
        """
        self._store = store
        self._key = key
        self._failed = failed
        self._patience_ms = patience_ms
        self._failures: dict[str, int] = {}
        self._busy: set[str] = set()
        """Entries that a thread is at."""
        self.put_off: dict[str, str] = {}
        """Entries that failed the last time, and why."""

    def work_off(self, work: Callable[[str], int], limit: int) -> int:
        """Do at most ``limit`` entries, the oldest first, and return the sum of what ``work`` returns for each.

        An entry that another thread is at is passed over: it may hang there.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        now = self._store.now()
        self._forget_gone()
        pull_back(self._store, self._key, now + PUT_OFF.longest_ms)
        done, entries = 0, due_entries(self._store, self._key, now - self._patience_ms, limit)
        begun = time.monotonic()
        for entry in entries:
            if time.monotonic() - begun > LONGEST_CALL:
                break  # another thread may have done the rest of what was read, and the next call reads anew
            if entry in self._busy:
                continue
            self._busy.add(entry)
            try:
                done += work(entry)
            except Exception as error:
                if is_outage(error):
                    raise
                self._put_off(entry, error)
            else:
                self._failures.pop(entry, None)
                self.put_off.pop(entry, None)
            finally:
                self._busy.discard(entry)
        return done

    def make_due(self, entry: str, error: Exception) -> None:
        """Let an entry be worked off at once: what would have done it has given up.

        Args:
            entry: of the list.
            error: why it could not be done.

        Raises:
            StoreUnavailable: the store did not answer; then the patience goes by.
        """
        put_off(self._store, self._key, entry, self._store.now() - self._patience_ms, described(error))

    def is_empty(self) -> bool:
        """Whether nothing is left to do, by any process.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        with self._store.errors("waiting"):
            return not self._store.redis.zcard(self._key)

    def _forget_gone(self) -> None:
        """Forget failures of entries that another process has done since."""
        failed = list(self._failures)
        if failed:
            with self._store.errors("waiting"):
                times = self._store.redis.zmscore(self._key, failed)
            for entry in (entry for entry, at in zip(failed, times, strict=True) if at is None):
                self._failures.pop(entry, None)
                self.put_off.pop(entry, None)

    def _put_off(self, entry: str, error: Exception) -> None:
        before = self._failures.get(entry, 0)
        self._failures[entry], self.put_off[entry] = before + 1, described(error)
        at = self._store.now() + PUT_OFF.delay(before) - self._patience_ms
        put_off(self._store, self._key, entry, at, self.put_off[entry])
        self._failed(entry, error)


def due_entries(store: Store, key: str, until: int, limit: int) -> list[str]:
    """The oldest entries of a list that were due then (ms)."""
    with store.errors("waiting"):
        return [entry.decode() for entry in store.redis.zrangebyscore(key, "-inf", until, 0, limit)]


def pull_back(store: Store, key: str, latest: int) -> None:
    """Make entries due now whose time lies behind the latest that can be (ms): the store's clock was ahead then."""
    with store.errors("waiting"):
        ahead = store.redis.zrangebyscore(key, latest + AHEAD_MS, "+inf", 0, MOST_AHEAD)
        if ahead:
            store.redis.zadd(key, dict.fromkeys(ahead, store.now()), xx=True)


def put_off(store: Store, key: str, entry: str, until: int, reason: str = "") -> None:
    """Make an entry that is still on the list due at that time (ms), and keep why it could not be done."""
    with store.errors("waiting"):
        if reason:
            store.redis.set(store.keys.put_off(entry), reason, px=REASON_MS)
        store.redis.zadd(key, {entry: until}, xx=True)


@dataclass(frozen=True, slots=True)
class Undone:
    """An entry that could not be done when it was tried last, or that was not tried."""

    entry: str
    late_ms: int
    """For how long it has been due; negative where it was put off until later."""
    reason: str
    """Why it could not be done; empty where nothing is known."""


def undone(store: Store, key: str, late_ms: int, among: Sequence[str] | None = None) -> list[Undone]:
    """The entries of a list that could not be done when they were tried last, or have been due for that time.

    Args:
        store: where the list is.
        key: of the sorted set.
        late_ms: that time.
        among: the entries that are read; unless given, those at both ends of the list: what was put off is at the last.
    """
    with store.errors("waiting"):
        if among is None:
            first = store.redis.zrange(key, 0, MOST_SHOWN - 1, withscores=True)
            last = store.redis.zrange(key, -MOST_SHOWN, -1, withscores=True)
            times = {entry.decode(): at for entry, at in [*first, *last]}
        else:
            listed = zip(among, store.redis.zmscore(key, among) if among else [], strict=True)
            times = {entry: at for entry, at in listed if at is not None}
        reasons = store.redis.mget([store.keys.put_off(entry) for entry in times]) if times else []
    now = store.now()
    found = [
        Undone(entry, now - int(at), (reason or b"").decode())
        for (entry, at), reason in zip(times.items(), reasons, strict=True)
    ]
    return [each for each in found if each.reason or not 0 <= each.late_ms < late_ms]
