"""Which tasks of a worker have ended and wait for the store, or for Celery's result backend, in a process of its pool.

Celery has done with such a task: only the process that ran it knows that its end is still to be stored. Its worker must
go on to report its message and to keep its lease, or the task would count as lost and run again. So every process
writes what waits into memory that all processes of the worker share. No lock guards that, as a process may be killed at
any moment; where two processes take one place at once, the one that has lost it takes another one later.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection
from hashlib import blake2b
from struct import Struct

#: Places for ends that wait at once in all processes of one worker; what finds none is not known to the worker.
MOST = 8192

#: The pid, 0 where the place is free, and the digest of a task id.
_PLACE = Struct("=q16s")
_PID = Struct("=q")


class SharedEnds:
    """Memory of one worker. Made in its main process before the pool is forked."""

    def __init__(self, places: int = MOST) -> None:
        self._all_free = bytes(_PLACE.size * places)
        self._shared = mmap.mmap(-1, len(self._all_free))
        self._pids = memoryview(self._shared).cast("q")[:: _PLACE.size // _PID.size]
        """Of all places."""

    def write(self, task_id: str) -> int | None:
        """An end of this task waits in this process; returns where that is written, None where no place is free."""
        digest, pids = _digest(task_id), self._pids.tolist()  # far faster than one place after the other
        first = int.from_bytes(digest[:4], "big") % len(pids)
        if 0 not in pids:
            return None
        at = pids.index(0, first if 0 in pids[first:] else 0) * _PLACE.size
        _PLACE.pack_into(self._shared, at, os.getpid(), digest)
        return at

    def is_at(self, at: int | None, task_id: str) -> bool:
        """Whether that is written at this place, by this process."""
        return at is not None and _PLACE.unpack_from(self._shared, at) == (os.getpid(), _digest(task_id))

    def free(self, at: int) -> None:
        """Another end may be written at this place."""
        _PID.pack_into(self._shared, at, 0)

    def read(self, pids: Collection[int]) -> WaitingTasks:
        """The tasks whose ends wait in processes that live; frees the places of others.

        Args:
            pids: of all processes of the worker.
        """
        written = self._shared[:]
        if written == self._all_free:
            return NONE_WAITING
        found = set()
        for place, (pid, digest) in enumerate(_PLACE.iter_unpack(written)):
            if pid in pids:
                found.add(digest)
            elif pid:
                self.free(place * _PLACE.size)
        return WaitingTasks(frozenset(found))


class WaitingTasks:
    """The tasks whose ends wait, at one moment."""

    def __init__(self, digests: frozenset[bytes]) -> None:
        self._digests = digests

    def __contains__(self, task_id: str) -> bool:
        return bool(self._digests) and _digest(task_id) in self._digests


#: No end waits.
NONE_WAITING = WaitingTasks(frozenset())


class OwnEnds:
    """The entries of one process. Safe to share between threads."""

    def __init__(self, shared: Callable[[], SharedEnds | None]) -> None:
        """Write nothing yet.

        Args:
            shared: the memory, None where the process belongs to no worker.
        """
        self._shared = shared
        self._lock = threading.Lock()
        self._counts = Counter[str]()
        self._places: dict[str, int | None] = {}

    def enter(self, task_id: str) -> None:
        """An end of this task waits, or one more."""
        with self._lock:
            self._counts[task_id] += 1
            self._write(task_id)

    def remove(self, task_id: str) -> None:
        """One end of this task does not wait any more."""
        with self._lock:
            self._counts[task_id] -= 1
            if self._counts[task_id] > 0:
                return
            del self._counts[task_id]
            shared, at = self._shared(), self._places.pop(task_id, None)
            if shared is not None and at is not None and shared.is_at(at, task_id):
                shared.free(at)

    def write_again(self) -> None:
        """Write those anew that had no place, or have lost it to another process, as far as there are places."""
        with self._lock:
            for task_id in self._counts:
                if not self._write(task_id):  # the others would find none either, and ends wait for the lock
                    return

    def _write(self, task_id: str) -> bool:
        """Whether it has a place."""
        shared = self._shared()
        if shared is None:
            return False
        if not shared.is_at(self._places.get(task_id), task_id):
            self._places[task_id] = shared.write(task_id)
        return self._places[task_id] is not None


def _digest(task_id: str) -> bytes:
    return blake2b(task_id.encode(errors="surrogatepass"), digest_size=16).digest()
