"""The waits as coroutines: the same answers, the event loop never blocked, nothing left behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import threading
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

import psutil
import pytest
import redis
from celery import Celery

from celery_perpetual import NotFound, Perpetual
from celery_perpetual.errors import ContractError
from tests.support import wait_until
from tests.support.held_tasks import STRANGER, Call

if TYPE_CHECKING:
    from collections.abc import Callable


async def until(predicate: Callable[[], object], what: str, timeout: float = 30) -> None:
    """As ``wait_until``, without blocking the loop."""
    deadline = time.monotonic() + timeout
    while not predicate():
        assert time.monotonic() < deadline, f"not within {timeout:g} s: {what}"
        await asyncio.sleep(0.02)


def hubs() -> int:
    """How many threads of subscriptions this process has."""
    return sum(each.name == "perpetual-hub" for each in threading.enumerate())


def test_the_waits_are_the_same_as_coroutines(shop):
    """`wait`, `wait_any`, `wait_all`, `as_completed` and `wait_batch` answer as their blocking twins do."""

    async def main():
        aio = shop.perpetual.aio
        gates = [shop.gate() for _ in range(3)]
        poll = shop.poll(*({"gate": gate, "result": n} for n, gate in enumerate(gates)), {"raises": "boom"})
        ids = list(poll.task_ids)
        failed = await aio.wait(ids[3], 30)
        assert (failed.status, failed.error["message"]) == ("failure", "boom")
        assert (await aio.wait(STRANGER, 30)).status == "unknown"
        now = [await aio.completion(each) for each in (ids[3], ids[0], STRANGER)]
        assert [each.status for each in now] == ["failure", "pending", "unknown"]
        assert await aio.wait_any(ids[:3], 0.2) == {}
        assert (await aio.wait_batch(poll.poll_id, 0.2)).timed_out

        begun = time.monotonic()
        late = await aio.wait_all(ids, 0.5)
        assert time.monotonic() - begun >= 0.5
        assert [late[each].timed_out for each in ids] == [True, True, True, False]
        assert late[ids[0]].status == "pending"

        batch = asyncio.ensure_future(aio.wait_batch(poll.poll_id, 30))
        waiting = asyncio.ensure_future(aio.wait_any(ids[:3], 30))
        seen = []
        async with aclosing(aio.as_completed([*ids, ids[0]], 30)) as ends:
            seen.append((await anext(ends)).task_id)
            for n in (1, 0, 2):
                shop.open(gates[n])
                seen.append((await anext(ends)).task_id)
                assert set(await waiting) == {ids[1]}  # before the next one ends
            assert [each async for each in ends] == []
        assert seen == [ids[3], ids[1], ids[0], ids[2]]
        assert (await batch).by_status == {"success": 3, "failure": 1}
        assert await aio.wait_all(ids, 30) == shop.perpetual.wait_all(ids, 30)
        with pytest.raises(NotFound):
            await aio.wait_batch("nonsense", 30)

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [None, -1, "5"])
def test_impossible_arguments_are_refused(shop, timeout):
    """As the blocking waits do; `as_completed` at the call."""

    async def main():
        aio = shop.perpetual.aio
        for wait in (aio.wait, aio.wait_batch):
            with pytest.raises(ContractError, match="timeout"):
                await wait("some", timeout)
        with pytest.raises(ContractError, match="id"):
            await aio.wait_any("some", 1)
        with pytest.raises(ContractError, match="timeout"):
            aio.as_completed(["some"], timeout)

    asyncio.run(main())


async def tick(late: list[float]) -> None:
    """Note by how much each turn of the loop is late."""
    while True:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        late.append(time.monotonic() - due)


def test_a_thousand_coroutines_wait_at_once_and_the_loop_goes_on(shop):
    """All are woken, over a handful of connections, and a ticker in the same loop keeps its cadence."""

    def connections() -> int:
        own = psutil.Process().net_connections("tcp")
        return sum(bool(each.raddr) and each.raddr.port == shop.server.port for each in own)

    async def main():
        gate = shop.gate()
        task_id = shop.send(gate=gate, result=7)
        late: list[float] = []
        ticker = asyncio.ensure_future(tick(late))
        before = connections()
        waits = [asyncio.ensure_future(shop.perpetual.aio.wait(task_id, 60)) for _ in range(1000)]
        await asyncio.sleep(0)
        await until(lambda: shop.subscribers(task_id), "they wait")
        most = connections()
        await until(lambda: len(late) > 20, "the loop goes on while they wait")
        await asyncio.to_thread(shop.open, gate)
        answers = await asyncio.gather(*waits)
        ticker.cancel()
        return answers, late, most - before

    answers, late, more = asyncio.run(main())

    assert [answer.result for answer in answers] == [7] * 1000
    assert more <= 12
    # To start a thousand tasks in one turn takes its time, above all on a machine that does other things too.
    assert statistics.median(late) < 0.05
    assert max(late) < 3


def test_a_store_that_hangs_does_not_hang_the_loop(private_redis):
    """Redis is stopped by SIGSTOP: waits begin and are cancelled meanwhile, and the loop goes on."""
    server = private_redis()

    async def main(perpetual):
        aio, late = perpetual.aio, []
        waits = [asyncio.ensure_future(aio.wait("hung", 60)) for _ in range(5)]
        client = redis.Redis.from_url(server.url)
        await until(lambda: client.pubsub_numsub("perpetual:done:hung")[0][1], "they wait")
        ticker = asyncio.ensure_future(tick(late))
        os.kill(server.pid, signal.SIGSTOP)
        begins = asyncio.ensure_future(aio.wait("begins", 60))
        leaves = asyncio.ensure_future(aio.wait("leaves", 60))
        # Twice a stretch in which the loop must go on: the ticker counts.
        await asyncio.sleep(0.5)
        leaves.cancel()
        waits.pop().cancel()
        await asyncio.sleep(0.5)
        os.kill(server.pid, signal.SIGCONT)
        ticker.cancel()
        for each in ("hung", "begins"):
            facts = {"task_id": each, "task": "t", "status": "success", "final": True}
            client.set(f"perpetual:completion:{each}", json.dumps(facts))
            client.publish(f"perpetual:done:{each}", json.dumps(facts))
        client.close()
        assert all(each.ok for each in await asyncio.gather(*waits, begins))
        return late

    app = Celery("proj", broker=server.url, set_as_current=False)
    perpetual = Perpetual(app)
    late = asyncio.run(main(perpetual))
    perpetual.store.close()
    app.close()

    assert len(late) > 20
    assert max(late) < 0.5


def test_ten_thousand_ids_of_one_coroutine(shop):
    """Half of them ended before; each is answered once."""
    ids = [f"amany-{n}" for n in range(10_000)]
    shop.end(*ids[::2])

    async def main():
        wait = asyncio.ensure_future(shop.perpetual.aio.wait_all(ids, 60))
        await until(lambda: shop.subscribers(ids[-1]), "it waits")
        await asyncio.to_thread(shop.end, *ids[1::2])
        return await wait

    answers = asyncio.run(main())

    assert set(answers) == set(ids)
    assert all(each.ok for each in answers.values())


@pytest.mark.parametrize("after", [0, 0.001, 0.3], ids=["at once", "while it subscribes", "while it waits"])
def test_a_cancelled_wait_leaves_nothing_behind(shop, after):
    """No subscription, no task, no thread, whenever the cancellation comes."""

    async def main():
        aio = shop.perpetual.aio
        for wait in (aio.wait_any(["cancelled"], 60), aio.wait("cancelled", 60), aio.wait("cancelled", 60)):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(wait, after)
        tasks = [asyncio.ensure_future(aio.wait("cancelled", 60)) for _ in range(20)]
        await asyncio.sleep(after)
        shop.redis.publish("perpetual:done:cancelled", "{}")  # told and cancelled in the same turn
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(each, asyncio.CancelledError) for each in outcomes)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        await until(lambda: shop.subscribers("cancelled") == 0, "nobody is subscribed", timeout=5)

    asyncio.run(main())

    wait_until(lambda: hubs() == 0, "the thread ends", timeout=5)


def test_a_loop_that_is_left_early_leaves_nothing_behind(shop):
    """`break` out of `async for`, with and without `aclosing`."""

    async def main():
        aio = shop.perpetual.aio
        shop.end("left-1")
        async for completion in aio.as_completed(["left-1", "left-2"], 60):
            assert completion.task_id == "left-1"
            break
        async with aclosing(aio.as_completed(["left-1", "left-2"], 60)) as ends:
            async for _ in ends:
                break
        await until(lambda: shop.subscribers("left-2") == 0, "nobody is subscribed", timeout=5)

    asyncio.run(main())
    wait_until(lambda: hubs() == 0, "the thread ends", timeout=5)


def test_a_loop_that_ends_in_mid_wait_harms_nobody(shop):
    """`asyncio.run` that is over while coroutines wait; blocking waits and later loops of the process go on."""
    gate = shop.gate()
    task_id = shop.send(gate=gate)
    blocking = Call(shop.perpetual.wait, task_id, 30)

    async def leave():
        asyncio.ensure_future(shop.perpetual.aio.wait(task_id, 60))  # noqa: RUF006  # that it is forgotten is the point
        await until(lambda: shop.subscribers(task_id), "they wait")

    asyncio.run(leave())
    loop = asyncio.new_event_loop()
    ends = shop.perpetual.aio.as_completed([task_id, "ended"], 60)
    shop.end("ended")
    assert loop.run_until_complete(anext(ends)).task_id == "ended"
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()

    shop.open(gate)
    assert blocking.result().ok
    assert asyncio.run(shop.perpetual.aio.wait(task_id, 30)).ok
    asyncio.run(ends.aclose())
    wait_until(lambda: hubs() == 0, "the thread ends", timeout=5)
