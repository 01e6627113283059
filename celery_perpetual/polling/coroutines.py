"""``next_batch`` as a coroutine function or an asynchronous generator.

Each such poll has an event loop of its own, on the thread that runs it. A coroutine that outlives the time limit is
cancelled, so it does not hold its thread as a blocking call would.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

from celery_perpetual.polling.batch import Abandoned
from celery_perpetual.tasks import Batch


class Loop:
    """The event loop of one poll, made when it is needed."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._loop: asyncio.AbstractEventLoop | None = None

    def settle(self, result: Any) -> Any:
        """A plain result: coroutines are run, asynchronous iterators become iterators."""
        if inspect.isawaitable(result):
            result = self._run(result)
        if isinstance(result, AsyncIterator):
            return self._iterate(result)
        if isinstance(result, Batch) and isinstance(result.items, AsyncIterator):
            return replace(result, items=self._iterate(result.items))
        return result

    def close(self) -> None:
        """Close the loop and what hangs on it."""
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    def _run(self, awaitable: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()

        return self._loop.run_until_complete(self._limited(self._loop, awaitable))

    async def _limited(self, loop: asyncio.AbstractEventLoop, awaitable: Any) -> Any:
        started = loop.time()
        try:
            return await asyncio.wait_for(awaitable, self._timeout)
        except asyncio.TimeoutError:
            if loop.time() - started < self._timeout:
                raise  # the user's own
            raise Abandoned from None

    def _iterate(self, source: AsyncIterator[Any]) -> Iterator[Any]:
        while True:
            try:
                yield self._run(source.__anext__())
            except StopAsyncIteration:
                return
