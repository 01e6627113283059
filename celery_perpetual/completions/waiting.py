"""Waiting for ends, without polling.

A wait subscribes, reads the records, and then sleeps until it is told; it reads again after a lost connection and
every few seconds, so a lost message only delays. It always ends at its time-out, with a last look.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING

from celery_perpetual.completions.batches import BatchResult, batch_result
from celery_perpetual.completions.completion import Completion, from_json
from celery_perpetual.completions.hub import Hub
from celery_perpetual.completions.lookup import answers, celery_results, pending, records
from celery_perpetual.errors import ContractError, NotFound, StoreUnavailable
from celery_perpetual.settings import seconds
from celery_perpetual.store import Store

if TYPE_CHECKING:
    from celery import Celery

#: A wait looks at the records this often, whatever it is told.
LOOK_SECONDS = 5.0


class Wait:
    """One wait for some ids: what is still pending, and how to ask about it. Blocking and async waits share it."""

    def __init__(self, app: Celery, store: Store, ids: Iterable[str], timeout: float | timedelta) -> None:
        self._app = app
        self._store = store
        self.ids = list(dict.fromkeys(_checked(ids)))
        self.pending = dict.fromkeys(self.ids)
        self.deadline = time.monotonic() + seconds("timeout", timeout, error=ContractError)
        self._next_look = time.monotonic() + LOOK_SECONDS

    @property
    def channels(self) -> list[str]:
        return [self._store.keys.channel(task_id) for task_id in self.ids]

    @property
    def pause(self) -> float:
        """Seconds until something is to be done without being told."""
        return max(0.0, min(self.deadline, self._next_look) - time.monotonic())

    @property
    def over(self) -> bool:
        return not self.pending or time.monotonic() >= self.deadline

    def told(self, message: bytes) -> list[Completion]:
        """What a message ends."""
        return self._ended([from_json(message)])

    def first(self) -> list[Completion]:
        """What is known at the start; ids of our form that nobody knows are told at once."""
        return self._ended(answers(self._app, self._store, list(self.pending)).values())

    def look(self) -> list[Completion]:
        """What the records say now."""
        self._next_look = time.monotonic() + LOOK_SECONDS
        try:
            return self._ended(records(self._store, list(self.pending)).values())
        except StoreUnavailable:  # it will be back, or the time-out comes
            self._next_look = time.monotonic() + 0.2
            return []

    def last(self) -> list[Completion]:
        """The last look, and the state of what has not ended."""
        found = self.look()
        found += self._ended(celery_results(self._app, list(self.pending)).values())
        rest, self.pending = list(self.pending), {}
        return [*found, *(pending(task_id).late() for task_id in rest)]

    def _ended(self, completions: Iterable[Completion]) -> list[Completion]:
        found = []
        for completion in completions:
            if completion.task_id in self.pending:
                del self.pending[completion.task_id]
                found.append(completion)
        return found


class _Inbox:
    """Messages for one blocking wait."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self.told = self._queue.put

    def look(self) -> None:
        self._queue.put(None)

    def next(self, timeout: float) -> bytes | None:
        """The next message, or None where records are to be read."""
        try:
            return self._queue.get(timeout=timeout)
        except Empty:
            return None


class Waiting:
    """Blocking waits of one app."""

    def __init__(self, app: Celery, store: Store, hub: Hub) -> None:
        self._app = app
        self._store = store
        self._hub = hub

    def as_completed(self, ids: Iterable[str], timeout: float | timedelta) -> Iterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        wait, inbox = Wait(self._app, self._store, ids, timeout), _Inbox()
        self._hub.watch(inbox, wait.channels)
        try:
            yield from wait.first()
            while not wait.over:
                message = inbox.next(wait.pause)
                yield from wait.told(message) if message is not None else wait.look()
            yield from wait.last() if wait.pending else ()
        finally:
            self._hub.unwatch(inbox, wait.channels)

    def wait_any(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        wait, inbox = Wait(self._app, self._store, ids, timeout), _Inbox()
        self._hub.watch(inbox, wait.channels)
        try:
            found = wait.first()
            while not found and not wait.over:
                message = inbox.next(wait.pause)
                found = wait.told(message) if message is not None else wait.look()
            found = found or [completion for completion in wait.last() if not completion.timed_out]
        finally:
            self._hub.unwatch(inbox, wait.channels)
        return {completion.task_id: completion for completion in found}

    def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        deadline = time.monotonic() + seconds("timeout", timeout, error=ContractError)
        inbox, channels = _Inbox(), [self._store.keys.channel(poll_id)]
        self._hub.watch(inbox, channels)
        try:
            while True:
                result = known_batch(self._store, poll_id)
                left = deadline - time.monotonic()
                if result.finished or left <= 0:
                    return result if result.finished else late(result)
                inbox.next(min(left, LOOK_SECONDS))
        finally:
            self._hub.unwatch(inbox, channels)


def known_batch(store: Store, poll_id: str) -> BatchResult:
    """The counters of a batch.

    Raises:
        NotFound: no batch of this id is known.
    """
    result = batch_result(store, poll_id)
    if result is None:
        raise NotFound(f"no batch of poll {poll_id!r} is known; polls without items have none, and old ones expire")
    return result


def late(result: BatchResult) -> BatchResult:
    """The same for a waiter whose time is over."""
    return BatchResult(
        poll_id=result.poll_id, total=result.total, by_status=result.by_status, finished=False, timed_out=True
    )


def _checked(ids: Iterable[str]) -> Iterable[str]:
    if isinstance(ids, str):
        raise ContractError(f"ids must be a list of task ids, got the string {ids!r}")
    for task_id in ids:
        if not isinstance(task_id, str) or not task_id:
            raise ContractError(f"a task id must be a non-empty string, got {task_id!r}")
        yield task_id
