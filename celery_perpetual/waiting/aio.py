"""The waits as coroutines.

They share the process's one subscription: its thread wakes the event loop. Reads of records run in the loop's default
executor, so the loop never blocks; any number of coroutines may wait at once.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.store.connection import Store
from celery_perpetual.waiting.hub import Hub
from celery_perpetual.waiting.lookup import Lookup
from celery_perpetual.waiting.waits import BatchWait, Wait

if TYPE_CHECKING:
    from celery import Celery


class _Inbox:
    """Messages for one coroutine. Its own future and no ``wait_for``, which may swallow a cancellation before 3.12."""

    reads = False

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.gone = False
        self._messages: deque[list[bytes] | None] = deque()
        self._woken: asyncio.Future[None] | None = None

    def told(self, messages: list[bytes] | None) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._put, messages)

    def look(self) -> None:
        self.told(None)

    def _put(self, messages: list[bytes] | None) -> None:
        self._messages.append(messages)
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    async def next(self, timeout: float) -> list[bytes] | None:
        """The next messages, or None where records are to be read."""
        if not self._messages:
            self._woken = self.loop.create_future()
            alarm = self.loop.call_later(timeout, self._wake)
            try:
                await self._woken
            finally:
                alarm.cancel()
        return self._messages.popleft() if self._messages else None


class AsyncWaiting:
    """``perpetual.aio``."""

    def __init__(self, app: Celery, store: Store, hub: Hub) -> None:
        self._store = store
        self._hub = hub
        self._lookup = Lookup(app, store)

    def as_completed(self, ids: Iterable[str], timeout: float | timedelta) -> AsyncGenerator[Completion, None]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        return self._as_completed(Wait(self._lookup, self._store, ids, timeout))

    async def _as_completed(self, wait: Wait) -> AsyncGenerator[Completion, None]:
        before = await asyncio.to_thread(wait.glance)
        async with self._watching(wait.channels) as inbox:
            for completion in before + await asyncio.to_thread(wait.look):
                yield completion
            while not wait.over:
                messages = await inbox.next(wait.pause)
                found = []
                if messages is not None:
                    found = wait.told(messages)
                elif not wait.over:
                    found = await asyncio.to_thread(wait.look)
                for completion in found:
                    yield completion
            if wait.pending:
                for completion in await asyncio.to_thread(wait.last):
                    yield completion

    async def wait(self, task_id: str, timeout: float | timedelta) -> Completion:
        """Wait for one task."""
        return (await self.wait_all([task_id], timeout))[task_id]

    async def wait_all(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for all; what has not ended by then is ``timed_out``."""
        return {completion.task_id: completion async for completion in self.as_completed(ids, timeout)}

    async def wait_any(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        wait = Wait(self._lookup, self._store, ids, timeout)
        before = await asyncio.to_thread(wait.glance)
        async with self._watching(() if before else wait.channels) as inbox:
            found = before + await asyncio.to_thread(wait.look)
            while not found and not wait.over:
                messages = await inbox.next(wait.pause)
                if messages is not None:
                    found = wait.told(messages)
                elif not wait.over:
                    found = await asyncio.to_thread(wait.look)
            if not found and wait.pending:
                found = [each for each in await asyncio.to_thread(wait.last) if not each.timed_out]
        return {completion.task_id: completion for completion in found}

    async def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        wait = BatchWait(self._lookup, self._store, poll_id, timeout)
        async with self._watching(wait.channels) as inbox:
            while (result := await asyncio.to_thread(wait.look)) is None:
                await inbox.next(wait.pause)
        return result

    @asynccontextmanager
    async def _watching(self, channels: Sequence[str]) -> AsyncIterator[_Inbox]:
        """Watch within a block. Leaving it waits for nothing, so a cancelled wait is gone at once."""
        inbox = _Inbox()
        try:
            await asyncio.to_thread(self._enter, inbox, channels)
            yield inbox
        finally:
            inbox.gone = True
            try:
                inbox.loop.run_in_executor(None, self._hub.unwatch, inbox, channels)
            except RuntimeError:  # the loop is closed
                self._hub.unwatch(inbox, channels)

    def _enter(self, inbox: _Inbox, channels: Sequence[str]) -> None:
        self._hub.watch(inbox, channels)
        if inbox.gone:  # cancelled meanwhile, and perhaps left before it was in
            self._hub.unwatch(inbox, channels)
