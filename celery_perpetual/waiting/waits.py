"""Waiting for ends, without polling.

A wait reads the records, subscribes to what has not ended, reads those again, and then sleeps until it is told; it
reads again after a lost connection and every few seconds, so a lost message only delays. It always ends at its
time-out, with a last look.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion, from_json
from celery_perpetual.errors import ContractError, StoreUnavailable
from celery_perpetual.settings import seconds
from celery_perpetual.store.connection import Store
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup, pending

if TYPE_CHECKING:
    from celery import Celery

#: A wait looks at the records this often, whatever it is told.
LOOK_SECONDS = 5.0
#: The same while the store does not answer.
RETRY_SECONDS = 0.2


class _Clock:
    """The time-out of one wait, and when it looks again."""

    def __init__(self, timeout: float | timedelta) -> None:
        self._deadline = time.monotonic() + seconds("timeout", timeout, error=ContractError)
        self._next_look = 0.0

    @property
    def late(self) -> bool:
        return time.monotonic() >= self._deadline

    @property
    def pause(self) -> float:
        """Seconds until something is to be done without being told."""
        return max(0.0, min(self._deadline, self._next_look) - time.monotonic())

    def look_in(self, pause: float) -> None:
        self._next_look = time.monotonic() + pause


class Wait(_Clock):
    """One wait for some ids: what is still pending, and how to ask about it. Blocking and async waits share it.

    Raises:
        ContractError: ids or timeout are none.
    """

    def __init__(self, lookup: Lookup, store: Store, ids: Iterable[str], timeout: float | timedelta) -> None:
        super().__init__(timeout)
        self._lookup = lookup
        self._store = store
        self._asked = self._down = False
        self.pending = dict.fromkeys(_checked(ids))
        self.channels: list[str] = []
        """What to watch, after the glance."""

    @property
    def over(self) -> bool:
        return not self.pending or self.late

    def told(self, messages: Iterable[bytes]) -> list[Completion]:
        """What messages end."""
        found = []
        for message in messages:
            try:
                found.append(from_json(message))
            except (ValueError, TypeError, AttributeError):  # no end: somebody else's message, or a batch's
                self.look_in(0)
        return self._ended(found)

    def glance(self) -> list[Completion]:
        """What has ended before: nobody need subscribe to that."""
        try:
            found = self._ended(self._lookup.records(list(self.pending)).values())
        except StoreUnavailable:
            found, self._down = [], True
        self.channels = [self._store.keys.channel(task_id) for task_id in self.pending]
        return found

    def look(self) -> list[Completion]:
        """What the records say now; the first time also which ids of our form nobody knows."""
        self.look_in(LOOK_SECONDS)
        if not self.pending or (self._down and self.late):
            return []
        try:
            return self._ended(self._read())
        except StoreUnavailable:  # it will be back, or the time-out comes
            self.look_in(RETRY_SECONDS)
            return []

    def last(self) -> list[Completion]:
        """The last look, and the state of what has not ended.

        Raises:
            StoreUnavailable: the store has not answered once.
        """
        if not self.pending:
            return []
        try:
            found = self._ended(self._read())
            found += self._ended(self._lookup.celery_results(self.pending).values())
        except StoreUnavailable:
            if not self._asked:
                raise
            found = []
        rest, self.pending = list(self.pending), {}
        return [*found, *(pending(task_id).late() for task_id in rest)]

    def _read(self) -> Iterable[Completion]:
        read = self._lookup.records if self._asked else self._lookup.answers
        found = read(list(self.pending)).values()
        self._asked = True
        return found

    def _ended(self, completions: Iterable[Completion]) -> list[Completion]:
        found = []
        for completion in completions:
            if completion.task_id in self.pending:
                del self.pending[completion.task_id]
                found.append(completion)
        return found


class BatchWait(_Clock):
    """One wait for a batch."""

    def __init__(self, lookup: Lookup, store: Store, poll_id: str, timeout: float | timedelta) -> None:
        super().__init__(timeout)
        self._lookup = lookup
        self._poll_id = poll_id
        self._known: BatchResult | None = None
        self.channels = [store.keys.channel(poll_id)]

    def look(self) -> BatchResult | None:
        """The counters when the batch is finished or the time is over, else None.

        Raises:
            NotFound: no batch of this id is known.
            StoreUnavailable: the time is over, and the store has not answered once.
        """
        late = self.late
        self.look_in(LOOK_SECONDS)
        try:
            self._known = self._lookup.batch(self._poll_id)
        except StoreUnavailable:
            self.look_in(RETRY_SECONDS)
            if late and self._known is None:
                raise
        if self._known is None or self._known.finished:
            return self._known
        return replace(self._known, timed_out=True) if late else None


class _Inbox:
    """Messages for one blocking wait."""

    reads = True

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._queue: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self.told = self._queue.put

    def look(self) -> None:
        self._queue.put(None)

    def next(self, timeout: float) -> list[bytes] | None:
        """The next messages, or None where records are to be read."""
        deadline = time.monotonic() + timeout
        read = self._hub.read_until(self, self._queue.qsize, deadline)
        try:
            return self._queue.get(timeout=0 if read else max(0.0, deadline - time.monotonic()))
        except Empty:
            return None
        finally:
            if not read:
                self._hub.done(self)


class Waiting:
    """Blocking waits of one app."""

    def __init__(self, app: Celery, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._lookup = Lookup(app, store)

    def as_completed(self, ids: Iterable[str], timeout: float | timedelta) -> Iterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        return self._as_completed(Wait(self._lookup, self._store, ids, timeout))

    def _as_completed(self, wait: Wait) -> Iterator[Completion]:
        inbox, before = _Inbox(self._hub), wait.glance()
        with self._hub.watching(inbox, wait.channels):
            yield from before
            yield from wait.look()
            while not wait.over:
                messages = inbox.next(wait.pause)
                if messages is not None:
                    yield from wait.told(messages)
                elif not wait.over:
                    yield from wait.look()
            yield from wait.last()

    def wait(self, task_id: str, timeout: float | timedelta) -> Completion:
        """Wait for the end of one task; at the time-out ``timed_out`` is True."""
        return self._first(Wait(self._lookup, self._store, [task_id], timeout))[0]

    def wait_any(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        found = self._first(Wait(self._lookup, self._store, ids, timeout))
        return {completion.task_id: completion for completion in found if not completion.timed_out}

    def _first(self, wait: Wait) -> list[Completion]:
        """What has ended when the first has, or the state of all when the time is over."""
        inbox, found = _Inbox(self._hub), wait.glance()
        channels = () if found else wait.channels
        try:
            self._hub.watch(inbox, channels)
            found += wait.look()
            while not found and not wait.over:
                messages = inbox.next(wait.pause)
                if messages is not None:
                    found = wait.told(messages)
                elif not wait.over:
                    found = wait.look()
            return found or wait.last()
        finally:
            self._hub.unwatch(inbox, channels)

    def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        wait, inbox = BatchWait(self._lookup, self._store, poll_id, timeout), _Inbox(self._hub)
        with self._hub.watching(inbox, wait.channels):
            while (result := wait.look()) is None:
                inbox.next(wait.pause)
        return result


def _checked(ids: Iterable[str]) -> Iterator[str]:
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise ContractError(f"ids must be a list of task ids, got {ids!r}")
    for task_id in ids:
        if not isinstance(task_id, str) or not task_id:
            raise ContractError(f"a task id must be a non-empty string, got {task_id!r}")
        yield task_id
