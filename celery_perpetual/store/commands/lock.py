"""A lock that expires by itself: for work of which a second run at once would be a waste, and no harm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redis.exceptions import LockError

from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class Lock:
    """One holder's view of it."""

    def __init__(self, store: Store, key: str, seconds: float) -> None:
        """Ask for nothing yet.

        Args:
            store: where it is.
            key: under which it is kept.
            seconds: after which it expires, unless it is kept.
        """
        self._store = store
        self._key, self._longest = key, ms(seconds)
        self._lock: Any = store.redis.lock(key, seconds, blocking=False, thread_local=False)

    def acquire(self) -> bool:
        """Take it; False if another process has it.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        with self._store.errors("lock"):
            if self._lock.acquire():
                return True
            if self._store.redis.pttl(self._key) > self._longest:
                # Its holder took it while the store's clock was ahead, and may have died.
                self._store.redis.pexpire(self._key, self._longest)
            return False

    def keep(self) -> None:
        """Begin its time anew, or take it again if it has expired.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        with self._store.errors("lock"):
            try:
                self._lock.reacquire()
            except LockError:
                self._lock.acquire()

    def release(self) -> None:
        """Give it back; where the store does not answer it expires by itself."""
        try:
            with self._store.errors("lock"):
                self._lock.release()
        except StoreUnavailable:
            return
