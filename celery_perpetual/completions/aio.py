"""The waits as coroutines.

They share the process's one subscription: its thread wakes the event loop. Reads of records run in the loop's default
executor, so the loop never blocks; any number of coroutines may wait at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.completions.hub import Hub
from celery_perpetual.completions.waiting import LOOK_SECONDS, Wait, known_batch, late
from celery_perpetual.errors import ContractError
from celery_perpetual.settings import seconds
from celery_perpetual.store import Store

if TYPE_CHECKING:
    from celery import Celery


class _Inbox:
    """Messages for one coroutine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def told(self, message: bytes | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, message)

    def look(self) -> None:
        self.told(None)

    async def next(self, timeout: float) -> bytes | None:
        """The next message, or None where records are to be read."""
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except asyncio.TimeoutError:
            return None


class AsyncWaiting:
    """``perpetual.aio``."""

    def __init__(self, app: Celery, store: Store, hub: Hub) -> None:
        self._app = app
        self._store = store
        self._hub = hub

    async def as_completed(self, ids: Iterable[str], timeout: float | timedelta) -> AsyncIterator[Completion]:
        """Yield completions as tasks end; at the time-out the rest comes with ``timed_out=True``."""
        wait, inbox = Wait(self._app, self._store, ids, timeout), _Inbox()
        channels = wait.channels
        await asyncio.to_thread(self._hub.watch, inbox, channels)
        try:
            for completion in await asyncio.to_thread(wait.first):
                yield completion
            while not wait.over:
                message = await inbox.next(wait.pause)
                found = wait.told(message) if message is not None else await asyncio.to_thread(wait.look)
                for completion in found:
                    yield completion
            if wait.pending:
                for completion in await asyncio.to_thread(wait.last):
                    yield completion
        finally:
            await asyncio.to_thread(self._hub.unwatch, inbox, channels)

    async def wait(self, task_id: str, timeout: float | timedelta) -> Completion:
        """Wait for one task."""
        return (await self.wait_all([task_id], timeout))[task_id]

    async def wait_all(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for all; what has not ended by then is ``timed_out``."""
        return {completion.task_id: completion async for completion in self.as_completed(ids, timeout)}

    async def wait_any(self, ids: Iterable[str], timeout: float | timedelta) -> dict[str, Completion]:
        """Wait for the first end, and return those that have ended by then."""
        wait, inbox = Wait(self._app, self._store, ids, timeout), _Inbox()
        channels = wait.channels
        await asyncio.to_thread(self._hub.watch, inbox, channels)
        try:
            found = await asyncio.to_thread(wait.first)
            while not found and not wait.over:
                message = await inbox.next(wait.pause)
                found = wait.told(message) if message is not None else await asyncio.to_thread(wait.look)
            found = found or [each for each in await asyncio.to_thread(wait.last) if not each.timed_out]
        finally:
            await asyncio.to_thread(self._hub.unwatch, inbox, channels)
        return {completion.task_id: completion for completion in found}

    async def wait_batch(self, poll_id: str, timeout: float | timedelta) -> BatchResult:
        """Wait until every item of a poll has ended.

        Raises:
            NotFound: no batch of this id is known.
        """
        deadline = time.monotonic() + seconds("timeout", timeout, error=ContractError)
        inbox, channels = _Inbox(), [self._store.keys.channel(poll_id)]
        await asyncio.to_thread(self._hub.watch, inbox, channels)
        try:
            while True:
                result = await asyncio.to_thread(known_batch, self._store, poll_id)
                left = deadline - time.monotonic()
                if result.finished or left <= 0:
                    return result if result.finished else late(result)
                await inbox.next(min(left, LOOK_SECONDS))
        finally:
            await asyncio.to_thread(self._hub.unwatch, inbox, channels)
