"""The waits as coroutines.

They share the process's subscription, whose thread wakes the event loop, and its readers, so the loop never blocks; any
number of coroutines may wait at once.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.waiting.aio_streams import iterate
from celery_perpetual.waiting.hub import CONFIRM_SECONDS, Hub
from celery_perpetual.waiting.key_wait import ItemKey, KeyWait
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.waiting.steps import Answer, Found, Listen, Steps
from celery_perpetual.waiting.streams import IDLE_SECONDS, Event, Following, stream_steps, subscribe_steps
from celery_perpetual.waiting.waits import BatchWait, Wait

if TYPE_CHECKING:
    from celery_perpetual.ledger.ids import TaskRef

T = TypeVar("T")


class _Inbox:
    """Messages for one coroutine. Its own future and no ``wait_for``, which may swallow a cancellation before 3.12."""

    reads = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.is_closed = False
        self._messages: deque[list[bytes] | None] = deque()
        self._woken: asyncio.Future[None] | None = None

    def receive(self, messages: list[bytes] | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._put, messages)

    def read_again(self) -> None:
        self.receive(None)

    def _wake_from_thread(self, _: Future[Any]) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._wake)

    def _put(self, messages: list[bytes] | None) -> None:
        self._messages.append(messages)
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def next(self, seconds: float) -> list[bytes] | None:
        """The next messages, or None where records are to be read."""
        if not self._messages:
            await self._sleep(seconds)
        return self._messages.popleft() if self._messages else None

    async def until_done(self, read: Future[Any], seconds: float) -> None:
        """Sleep until a read is done, at most so many seconds."""
        read.add_done_callback(self._wake_from_thread)
        deadline = time.monotonic() + seconds
        while not read.done() and (left := deadline - time.monotonic()) > 0:
            await self._sleep(left)

    async def _sleep(self, seconds: float) -> None:
        self._woken = self.loop.create_future()
        alarm = self.loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            alarm.cancel()


class KeyOperations(Protocol):
    """The operations on the units and items of the app."""

    def item_key(self, task: Any, key: Any, tenant: Any = None) -> ItemKey:
        """The item key that a caller names."""

    def find(self, task: Any, key: Any, tenant: Any = None) -> Completion | None:
        """As the method of the coroutines, and blocks."""

    def nudge(self, task: Any, tenant: Any = None) -> bool:
        """Let the leader poll a unit at once."""

    def completion(self, task_id: TaskRef) -> Completion:
        """As the method of the coroutines, and blocks."""


class AsyncWaiting:
    """``perpetual.aio``."""

    def __init__(self, lookup: Lookup, hub: Hub, keys: KeyOperations) -> None:
        self._lookup = lookup
        self._hub = hub
        self._keys = keys

    def as_completed(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> AsyncGenerator[Completion, None]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        return self._one_by_one(Wait(self._lookup, ids, timeout))

    async def _one_by_one(self, wait: Wait) -> AsyncGenerator[Completion, None]:
        async with aclosing(self._found(wait.steps())) as found:
            async for completions in found:
                for completion in completions:
                    yield completion

    async def wait(self, task_id: TaskRef, timeout: float | timedelta) -> Completion:
        """Wait for one task."""
        return (await self._first(Wait(self._lookup, [task_id], timeout)))[0]

    async def wait_all(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for all; what has not ended by then is ``timed_out``."""
        return {completion.task_id: completion async for completion in self.as_completed(ids, timeout)}

    async def wait_any(self, ids: Iterable[TaskRef], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        found = await self._first(Wait(self._lookup, ids, timeout))
        return {completion.task_id: completion for completion in found if not completion.timed_out}

    async def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        async with aclosing(self._found(BatchWait(self._lookup, poll_id, timeout).steps())) as found:
            return await anext(found)

    async def completion(self, task_id: TaskRef) -> Completion:
        """How a task ended, as far as it is known now; ``pending`` and ``unknown`` are answers too.

        Raises:
            ContractError: the id is none.
            StoreUnavailable: the store did not answer.
        """
        return await self._in_thread(self._keys.completion, task_id)

    async def find(self, task: Any, key: Any, tenant: Any = None) -> Completion | None:
        """The item in flight under a key, or its last end; None where neither is known."""
        return await self._in_thread(self._keys.find, task, key, tenant)

    async def wait_key(
        self, task: Any, key: Any, timeout: float | timedelta, tenant: Any = None, nudge: bool = False
    ) -> Completion:
        """Wait for the end of the item that has a key, or gets it from a coming poll."""
        item = await self._in_thread(self._keys.item_key, task, key, tenant)
        search = KeyWait(self._lookup, item, timeout, partial(self._keys.nudge, task, tenant) if nudge else None)
        async with aclosing(self._found(search.steps())) as found:
            task_id = await anext(found)
        return item.known(task_id, await self.wait(task_id, search.left)) if task_id else item.pending().late()

    def subscribe(self) -> AsyncGenerator[Completion, None]:
        """Iterate completions as they happen, from the first iteration on and for ever.

        Raises:
            StoreUnavailable: the connection was lost; :meth:`stream` misses nothing.
        """
        return iterate(partial(subscribe_steps, self._lookup.store))

    def stream(
        self, group: str, consumer: str, start: Literal["new", "all"] = "all", *, idle: float | timedelta = IDLE_SECONDS
    ) -> AsyncGenerator[Event, None]:
        """Iterate events at least once, for ever, with a consumer group.

        An event counts as done when the next one is asked for; one that an iteration was cancelled with comes once
        more. ``new`` starts a new group with what happens from the first iteration on.

        Raises:
            ContractError: group or consumer is no name, start is neither, or idle is no duration.
        """
        following = Following(group=group, consumer=consumer, start=start, idle=idle).checked()
        return iterate(partial(stream_steps, self._lookup.store, following))

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.wrap_future(self._lookup.readers.submit(partial(call, *arguments)))

    async def _first(self, wait: Wait) -> list[Completion]:
        async with aclosing(self._found(wait.steps(first=True))) as found:
            completions: list[Completion] = []
            async for completions in found:
                if completions:
                    break
            return completions

    async def _found(self, steps: Steps[T]) -> AsyncGenerator[T, None]:
        """Take the steps of a wait, and yield what it finds."""
        inbox = _Inbox()
        channels: Sequence[str] = ()
        reply: Any = None
        try:
            while True:
                try:
                    step = steps.send(reply)
                except StopIteration:
                    return
                reply = None
                if isinstance(step, Found):
                    yield step.what
                elif isinstance(step, Listen):
                    reply = await inbox.next(step.seconds)
                elif isinstance(step, Answer):
                    await inbox.until_done(step.read, step.seconds)
                else:
                    channels = step.channels
                    watching = self._lookup.readers.submit(partial(self._watch, inbox, channels, step.deadline))
                    await inbox.until_done(watching, min(step.deadline - time.monotonic(), CONFIRM_SECONDS))
        finally:
            # Nothing is waited for here, so a cancelled wait is gone at once.
            inbox.is_closed = True
            steps.close()
            if channels:
                self._lookup.readers.submit(partial(self._hub.unwatch, inbox, channels))

    def _watch(self, inbox: _Inbox, channels: Sequence[str], deadline: float) -> None:
        self._hub.watch(inbox, channels, deadline)
        if inbox.is_closed:  # cancelled meanwhile; the other call may have come first
            self._hub.unwatch(inbox, channels)
