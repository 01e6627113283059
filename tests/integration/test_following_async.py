"""`aio.subscribe` and `aio.stream`: what their blocking twins find, and the event loop goes on."""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import StoreUnavailable
from celery_perpetual.errors import ContractError
from tests.integration.test_waiting_async import tick, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from celery_perpetual import Completion
    from tests.support.held_tasks import HeldTasks

#: By which a turn of the loop may be late on a busy machine; a stream that blocked it would do so for a second.
LATE = 0.6


def followers() -> int:
    """How many threads of streams this process has."""
    return sum(each.name == "perpetual-stream" for each in threading.enumerate())


async def first_end(shop: HeldTasks, consumer: str, *, task_id: str) -> Completion | None:
    """The first completion of a task in the stream of the group "async"; other events are seen through."""
    async with aclosing(shop.perpetual.aio.stream("async", consumer)) as events:
        async for event in events:
            if event.completion is not None and event.completion.task_id == task_id:
                return event.completion
    return None


def test_stream_brings_events_at_least_once_while_the_loop_goes_on(shop: HeldTasks) -> None:
    """One that was in hand when the loop was left comes once more; a cancelled iteration leaves no thread behind."""

    async def main() -> None:
        late: list[float] = []
        ticker = asyncio.ensure_future(tick(late))
        task_id = shop.send(result=1)
        seen = await asyncio.wait_for(first_end(shop, "one", task_id=task_id), 30)
        again = await asyncio.wait_for(first_end(shop, "one", task_id=task_id), 30)
        assert (seen and seen.result, again) == (1, seen)

        waits = asyncio.ensure_future(first_end(shop, "two", task_id="none"))
        await until(followers, "it follows")
        await asyncio.sleep(1.2)  # longer than one call to the store
        waits.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waits
        await until(lambda: followers() == 0, "its thread is gone", 5)
        ticker.cancel()
        assert max(late) < LATE

    asyncio.run(main())


def test_subscribe_brings_ends_until_its_connection_is_lost(shop: HeldTasks) -> None:
    """Two iterations get the same ends; then each raises, as it cannot say what it missed."""

    def listening() -> int:
        return int(shop.redis.pubsub_numsub("perpetual:done")[0][1])

    async def follow(ends: AsyncGenerator[Completion, None], found: list[str]) -> None:
        async with aclosing(ends):
            async for completion in ends:
                found.append(completion.task_id)  # noqa: PERF401  # it is read meanwhile

    async def main() -> None:
        before, found = listening(), ([], [])
        follows = [asyncio.ensure_future(follow(shop.perpetual.aio.subscribe(), each)) for each in found]
        await until(lambda: listening() == before + 2, "both listen")
        ids = [shop.send(result=n) for n in range(3)]
        await until(lambda: all(set(ids) <= set(each) for each in found), "both have heard of all ends")

        shop.redis.client_kill_filter(_type="pubsub")
        for each in follows:
            with pytest.raises(StoreUnavailable):
                await each

    asyncio.run(main())


def test_impossible_names_are_refused_at_the_call(shop: HeldTasks) -> None:
    """Not at the first iteration."""
    for arguments, options in (("", "a"), {}), (("g", "a"), {"idle": -1}), (("g", "a"), {"start": "old"}):
        with pytest.raises(ContractError, match="stream"):
            shop.perpetual.aio.stream(*arguments, **options)
