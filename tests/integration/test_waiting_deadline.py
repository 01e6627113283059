"""A wait is over at its time-out, whatever the store or Celery's result backend does: stopped servers, many waits."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redis
from celery import Celery

from celery_perpetual import Perpetual, StoreUnavailable
from tests.support import wait_until
from tests.support.held_tasks import SOONER_THAN_A_LOOK, Call, waiter_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from celery_perpetual.embedded import EmbeddedServer

TIMEOUT = 1.0
#: For forty threads on a busy machine.
SLACK = 1.0
WAITS = 40
#: Each called with the waits (blocking or async), ids and a time-out.
KINDS: dict[str, Callable[[Any, list[str], float], Any]] = {
    "wait": lambda waits, ids, timeout: waits.wait(ids[0], timeout),
    "wait_any": lambda waits, ids, timeout: waits.wait_any(ids, timeout),
    "wait_all": lambda waits, ids, timeout: waits.wait_all(ids, timeout),
    "as_completed": lambda waits, ids, timeout: waits.as_completed(ids, timeout),
    "wait_batch": lambda waits, ids, timeout: waits.wait_batch(ids[0], timeout),
}


@contextmanager
def stopped(server: EmbeddedServer) -> Iterator[None]:
    """SIGSTOP within a block: the server's host takes connections, and nothing answers."""
    process = psutil.Process(server.pid)
    process.suspend()
    try:
        yield
    finally:
        process.resume()


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """How long a call took, and its result or its error; an iterator is used up."""
    begun = time.monotonic()
    try:
        result = call()
        result = list(result) if hasattr(result, "__next__") else result
    except StoreUnavailable as error:
        result = error
    return time.monotonic() - begun, result


@pytest.mark.parametrize("kind", KINDS)
def test_forty_threads_are_back_in_time_from_a_store_that_never_answered(private_redis, kind):
    """None waits for another's read, and each says that the store has not answered."""
    server = private_redis()
    with waiter_at(server.url) as perpetual, stopped(server):
        calls = [Call(timed, lambda n=n: KINDS[kind](perpetual, [f"{n}-a", f"{n}-b"], TIMEOUT)) for n in range(WAITS)]
        taken, results = zip(*(call.result() for call in calls), strict=True)

    assert max(taken) < TIMEOUT + SLACK
    assert all(isinstance(result, StoreUnavailable) for result in results)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "wait_batch"])
def test_forty_threads_are_back_in_time_from_a_store_that_stops_answering(private_redis, kind):
    """They have waited for a while; at the time-out they say what they know: nothing has ended."""
    server = private_redis()
    timeout = 4.0
    with waiter_at(server.url) as perpetual, redis.Redis.from_url(server.url) as client:
        calls = [Call(timed, lambda n=n: KINDS[kind](perpetual, [f"{n}-a", f"{n}-b"], timeout)) for n in range(WAITS)]
        channels = WAITS if kind == "wait" else 2 * WAITS
        wait_until(lambda: len(client.pubsub_channels("perpetual:done:*")) == channels, "all are subscribed")
        with stopped(server):
            taken, results = zip(*(call.result() for call in calls), strict=True)

    assert timeout <= min(taken)
    assert max(taken) < timeout + SLACK
    assert not any(isinstance(result, StoreUnavailable) for result in results)


@pytest.mark.parametrize("kind", KINDS)
def test_forty_coroutines_are_back_in_time(private_redis, kind):
    """Neither the event loop nor its executor is held up meanwhile."""
    server = private_redis()

    async def one(aio: Any, n: int) -> tuple[float, Any]:
        begun = time.monotonic()
        try:
            found = KINDS[kind](aio, [f"{n}-a", f"{n}-b"], TIMEOUT)
            found = [each async for each in found] if hasattr(found, "__anext__") else await found
        except StoreUnavailable as error:
            found = error
        return time.monotonic() - begun, found

    async def main(aio: Any) -> list[tuple[float, Any]]:
        waits = [asyncio.create_task(one(aio, n)) for n in range(WAITS)]
        await asyncio.sleep(TIMEOUT / 2)
        begun = time.monotonic()
        await asyncio.to_thread(lambda: None)
        assert time.monotonic() - begun < SLACK
        return await asyncio.gather(*waits)

    with waiter_at(server.url) as perpetual, stopped(server):
        begun = time.monotonic()
        outcomes = asyncio.run(main(perpetual.aio))
        assert time.monotonic() - begun < TIMEOUT + 2 * SLACK

    assert max(taken for taken, _ in outcomes) < TIMEOUT + SLACK
    assert all(isinstance(result, StoreUnavailable) for _, result in outcomes)


def test_what_never_waits_asks_no_longer_than_the_stores_time_out(private_redis):
    """`completion` is bounded by `perpetual_store_timeout`, in any number of threads."""
    server = private_redis()
    app = Celery("proj", broker=server.url, set_as_current=False)
    app.conf.perpetual_store_timeout = 1.0
    perpetual = Perpetual(app)
    with stopped(server):
        calls = [Call(timed, lambda n=n: perpetual.completion(f"{n}")) for n in range(WAITS)]
        taken, results = zip(*(call.result() for call in calls), strict=True)
    perpetual.store.close()
    app.close()

    assert max(taken) < 1.0 + SLACK
    assert all(isinstance(result, StoreUnavailable) for result in results)


@pytest.mark.parametrize("ours", [True, False], ids=["an id of our form", "a foreign id"])
def test_a_result_backend_that_does_not_answer_keeps_no_wait(private_redis, ours):
    """Ends are told by the store, soon; the time-out is kept; and an answer that comes late is still used."""
    store, backend = private_redis(), private_redis()
    task_id = "019b0000-0000-8abc-8abc-abcdef00000%d" if ours else "foreign-%d"
    ids = [task_id % n for n in range(3)]
    app = Celery("proj", broker=store.url, backend=backend.url, set_as_current=False)
    perpetual = Perpetual(app)
    record = {"v": 1, "task_id": ids[0], "task": "t", "status": "success", "final": True, "result": 1}
    with redis.Redis.from_url(store.url) as client, redis.Redis.from_url(backend.url) as results:
        results.set(f"celery-task-meta-{ids[2]}", json.dumps({"status": "SUCCESS", "result": 3, "task_id": ids[2]}))
        with stopped(backend):
            late = Call(perpetual.wait, ids[2], 60)
            waits = [Call(timed, lambda: perpetual.wait(ids[0], 30)) for _ in range(10)]
            over = [Call(timed, lambda: perpetual.wait(ids[1], TIMEOUT)) for _ in range(10)]
            wait_until(lambda: client.pubsub_channels(f"perpetual:done:{ids[0]}"), "they are subscribed")
            client.set(f"perpetual:completion:{ids[0]}", json.dumps(record))
            client.publish(f"perpetual:done:{ids[0]}", json.dumps(record))
            assert all(call.result()[1].result == 1 for call in waits)
            assert max(call.result()[0] for call in waits) < SOONER_THAN_A_LOOK
            assert all(call.result()[1].timed_out for call in over)
            assert max(call.result()[0] for call in over) < TIMEOUT + SLACK
            assert late.is_alive()
        begun = time.monotonic()
        assert late.result().result == 3
        assert time.monotonic() - begun < SOONER_THAN_A_LOOK
    perpetual.store.close()
    app.close()
