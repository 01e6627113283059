"""Which thread reads the connection: one at a time.

A blocking wait takes the turn where it is free and no watcher relies on the hub's thread: then the message that ends
the wait wakes its own thread, without another thread in between. Every other watcher *relies* on the hub's thread,
which takes the turn as long as there is one that does.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celery_perpetual.waiting.channels import Watcher


class Turn:
    """The right to read. All methods but :meth:`is_of` and :meth:`give_back` need the hub's lock."""

    def __init__(self, lock: threading.RLock) -> None:
        self.changed = threading.Condition(lock)
        """For the hub's thread: it may have to read."""
        self._reader: object | None = None
        self._since = 0.0
        self._relying: set[Watcher] = set()

    @property
    def is_free(self) -> bool:
        """Whether no thread reads."""
        return self._reader is None

    @property
    def is_relied_on(self) -> bool:
        """Whether the hub's thread has to read for a watcher."""
        return bool(self._relying)

    def take(self, reader: object) -> bool:
        """Take the turn for a blocking wait; False where it has to rely on another thread."""
        if self._reader is not None or self._relying:
            return False
        self._reader, self._since = reader, time.monotonic()
        return True

    def take_over(self, reader: object, lost_seconds: float) -> bool | None:
        """Take the turn for the hub's thread, also from a reader that has kept it for so long.

        Returns:
            None where the turn is not to be had, else whether it was taken from such a reader.
        """
        if self._reader is not None and time.monotonic() - self._since < lost_seconds:
            return None
        was_lost, self._reader = self._reader is not None, reader
        return was_lost

    def is_of(self, reader: object) -> bool:
        """Whether this reader has the turn."""
        return self._reader is reader

    def give_back(self, reader: object) -> None:
        """Stop reading. Needs no lock, because a signal's handler may raise while one is taken."""
        if self._reader is reader:
            self._reader = None

    def rely(self, watcher: Watcher) -> None:
        """Let the hub's thread read for this watcher."""
        self._relying.add(watcher)
        self.changed.notify()

    def stop_relying(self, watcher: Watcher) -> None:
        """This watcher needs no reading any more."""
        self._relying.discard(watcher)
