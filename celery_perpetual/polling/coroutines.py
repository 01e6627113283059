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

from celery_perpetual.polling.reading import Abandoned
from celery_perpetual.tasks.items import Batch


class Loop:
    """The event loop of one poll, made when it is needed."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = 0.0
        """Of the whole poll, on the loop's clock."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._sources: list[AsyncIterator[Any]] = []
        """Kept until the end, when those that were not read to theirs are closed."""

    def resolve(self, result: Any) -> Any:
        """A plain result: coroutines are run, asynchronous iterators become iterators."""
        if result is None or type(result) is list:
            return result
        if inspect.isawaitable(result):
            result = self._run(result)
        if isinstance(result, AsyncIterator):
            return self._iterate(result)
        if isinstance(result, Batch) and isinstance(result.items, AsyncIterator):
            return replace(result, items=self._iterate(result.items))
        return result

    def close(self) -> None:
        """Cancel what still runs on the loop, let generators clean up, and close it."""
        if self._loop is not None:
            try:
                self._loop.run_until_complete(_tidy(self._loop))
            finally:
                self._loop.close()

    def _run(self, awaitable: Any) -> Any:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._deadline = self._loop.time() + self._timeout
        return self._loop.run_until_complete(self._limited(self._loop, awaitable))

    async def _limited(self, loop: asyncio.AbstractEventLoop, awaitable: Any) -> Any:
        try:
            return await asyncio.wait_for(awaitable, max(0.0, self._deadline - loop.time()))
        except asyncio.TimeoutError:
            if loop.time() < self._deadline:
                raise  # the user's own
            raise Abandoned from None

    def _iterate(self, source: AsyncIterator[Any]) -> Iterator[Any]:
        self._sources.append(source)
        while True:
            try:
                yield self._run(_next(source))
            except StopAsyncIteration:
                return


async def _next(source: AsyncIterator[Any]) -> Any:
    """The next item; asked for inside the loop, or that would not know the generator as its own to close."""
    return await source.__anext__()


async def _tidy(loop: asyncio.AbstractEventLoop) -> None:
    left = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)
    await loop.shutdown_asyncgens()
