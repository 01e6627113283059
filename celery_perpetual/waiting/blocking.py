"""The waits as calls that block."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import wait as wait_for
from datetime import timedelta
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.ledger.key_holders import holder_of
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.key_wait import ItemKey, KeyWait
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.waiting.steps import Answer, Found, Listen, Steps
from celery_perpetual.waiting.waits import BatchWait, Wait

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef

T = TypeVar("T")


class _Inbox:
    """Messages for one blocking wait."""

    reads = True

    def __init__(self) -> None:
        self._messages: SimpleQueue[list[bytes] | None] = SimpleQueue()
        self.receive = self._messages.put

    def read_again(self) -> None:
        self._messages.put(None)

    def next(self, hub: Hub, seconds: float) -> list[bytes] | None:
        """The next messages, or None where records are to be read."""
        came: list[list[bytes] | None] = []

        def sleep(seconds: float) -> None:
            came.append(self._messages.get(timeout=seconds))

        try:
            hub.wait_until(self, self._messages.qsize, time.monotonic() + seconds, sleep)
            return came.pop() if came else self._messages.get_nowait()
        except Empty:
            return None


class _Found(Iterator[T]):
    """Takes the steps of a wait, and yields what it finds, within a ``with``.

    No generator around a generator: closing one raises in it, and a wait that has its answer would pay for both.
    """

    def __init__(self, hub: Hub, steps: Steps[T]) -> None:
        self._hub = hub
        self._steps = steps
        self._inbox = _Inbox()
        self._channels: Sequence[str] = ()

    def __next__(self) -> T:
        reply: Any = None
        while True:
            step = self._steps.send(reply)
            reply = None
            if isinstance(step, Found):
                return step.what
            if isinstance(step, Listen):
                reply = self._inbox.next(self._hub, step.seconds)
            elif isinstance(step, Answer):
                wait_for([step.read], step.seconds)
            else:
                self._channels = step.channels
                self._hub.watch(self._inbox, step.channels, step.deadline)

    def __enter__(self) -> _Found[T]:
        return self

    def __exit__(self, *raised: object) -> None:
        """End the wait, wherever it is."""
        try:
            self._steps.close()
        finally:
            self._hub.unwatch(self._inbox, self._channels)


class Waiting:
    """Blocking waits of one app."""

    def __init__(self, lookup: Lookup, hub: Hub) -> None:
        self._lookup = lookup
        self._hub = hub

    def as_completed(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> Iterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        return self._one_by_one(Wait(self._lookup, ids, timeout))

    def _one_by_one(self, wait: Wait) -> Iterator[Completion]:
        with self._found(wait.steps()) as found:
            for completions in found:
                yield from completions

    def wait(self, task_id: TaskRef, timeout: float | timedelta) -> Completion:
        """Wait for the end of one task; at the time-out ``timed_out`` is True."""
        return self._first(Wait(self._lookup, [task_id], timeout))[0]

    def wait_any(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        found = self._first(Wait(self._lookup, ids, timeout))
        return {completion.task_id: completion for completion in found if not completion.timed_out}

    def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        with self._found(BatchWait(self._lookup, poll_id, timeout).steps()) as found:
            return next(found)

    def wait_key(
        self, item: ItemKey, timeout: float | timedelta, nudge: Callable[[], object] | None = None
    ) -> Completion:
        """Wait for the end of the item that has a key, or gets it from a coming poll."""
        search = KeyWait(self._lookup, item, timeout, nudge)
        with self._found(search.steps()) as found:
            task_id = next(found)
        return item.known(task_id, self.wait(task_id, search.left)) if task_id else item.pending().late()

    def find(self, item: ItemKey) -> Completion | None:
        """The item in flight under a key, or its last end; None where neither is known."""
        holder = holder_of(self._lookup.store, item.unit, item.key)
        task_id = holder.in_flight or holder.last
        return None if task_id is None else item.known(task_id, self.now(task_id))

    def now(self, task_id: TaskRef) -> Completion | None:
        """The end of a task as far as it is known now, None where it is none or has not ended.

        Raises:
            StoreUnavailable: the store did not answer within its time-out.
        """
        with self._found(Wait(self._lookup, [task_id], self._lookup.store.timeout).now()) as found:
            return next(iter(next(found)), None)

    def _first(self, wait: Wait) -> list[Completion]:
        with self._found(wait.steps(first=True)) as found:
            completions: list[Completion] = []
            for completions in found:
                if completions:
                    break
            return completions

    def _found(self, steps: Steps[T]) -> _Found[T]:
        return _Found(self._hub, steps)
