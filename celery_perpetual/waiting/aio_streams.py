"""Following ends as coroutines: each iteration has a thread of its own, which asks the store when it is asked."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import TypeVar

from celery_perpetual.waiting.streams import Steps

T = TypeVar("T")


async def iterate(begin: Callable[[], Steps[T]]) -> AsyncGenerator[T, None]:
    """The finds of the steps. The event loop never blocks.

    The thread ends within about a second of the iteration. What it finds for one that was cancelled is dropped.
    """
    asked: SimpleQueue[Future[T | None] | None] = SimpleQueue()
    is_over = threading.Event()
    threading.Thread(target=_serve, args=(begin, asked, is_over), name="perpetual-stream", daemon=True).start()
    try:
        while True:
            answer: Future[T | None] = Future()
            answer.set_running_or_notify_cancel()  # the thread may answer an iteration that is cancelled meanwhile
            asked.put(answer)
            found = await asyncio.wrap_future(answer)
            if found is None:
                return
            yield found
    finally:
        is_over.set()
        asked.put(None)


def _serve(
    begin: Callable[[], Steps[T]], asked: SimpleQueue[Future[T | None] | None], is_over: threading.Event
) -> None:
    steps: Steps[T] | None = None
    try:
        while (answer := asked.get()) is not None:
            try:
                if steps is None:
                    steps = begin()
                answer.set_result(next((found for found in steps if found is not None or is_over.is_set()), None))
            except Exception as error:  # it is the iteration's
                answer.set_exception(error)
    finally:
        if steps is not None:
            steps.close()
