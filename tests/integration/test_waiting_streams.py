"""Waiting for many that end in a stream, and what becomes of subscriptions that nobody needs any more."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.held_tasks import Call, held_tasks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.held_tasks import HeldTasks

#: Without a message a wait reads its records after 5 s; whoever has its answer sooner was told.
SOONER_THAN_A_LOOK = 3.0


@pytest.fixture(scope="module")
def module_shop(tmp_path_factory) -> Iterator[HeldTasks]:
    with held_tasks(tmp_path_factory.mktemp("shop")) as shop:
        yield shop


@pytest.fixture
def shop(module_shop) -> Iterator[HeldTasks]:
    module_shop.connect()
    yield module_shop
    module_shop.disconnect()


def calls(shop: HeldTasks, command: str) -> int:
    """How often the server has run a command."""
    return shop.redis.info("commandstats").get(f"cmdstat_{command}", {}).get("calls", 0)


def test_a_stream_of_ends_is_told_whole_and_does_not_hold_up_who_waits_for_one(shop):
    """One waits for 3 000 ids that end one after another, another for a single id that ends among them."""
    ids = [f"stream-{n}" for n in range(3000)]
    many = Call(lambda: [each.task_id for each in shop.perpetual.as_completed(ids, 60)])
    wait_until(lambda: shop.subscribers(ids[-1]), "it waits")
    for task_id in ids[:500]:
        shop.end(task_id)
    one = Call(shop.perpetual.wait, "between", 60)
    wait_until(lambda: shop.subscribers("between"), "the other waits")
    for task_id in ids[500:1000]:
        shop.end(task_id)
    shop.end("between")
    begun = time.monotonic()
    assert one.result().ok
    assert time.monotonic() - begun < SOONER_THAN_A_LOOK
    for task_id in ids[1000:]:
        shop.end(task_id)

    begun = time.monotonic()
    told = many.result()

    assert time.monotonic() - begun < SOONER_THAN_A_LOOK
    assert len(told) == len(set(told)) == 3000
    assert set(told) == set(ids)


def test_what_has_ended_is_answered_without_a_subscription(shop):
    """A thousand records are read by two calls, and nobody subscribes to anything."""
    ids = [f"over-{n}" for n in range(1000)]
    shop.end(*ids)
    before = calls(shop, "subscribe"), calls(shop, "mget")

    answers = shop.perpetual.wait_all(ids, 30)

    assert all(answers[task_id].ok for task_id in ids)
    assert (calls(shop, "subscribe"), calls(shop, "mget")) == (before[0], before[1] + 2)


def test_subscriptions_are_left_while_others_still_wait(shop):
    """Ids whose waits timed out are unsubscribed from soon, however long another wait goes on."""
    stays = Call(shop.perpetual.wait, "stays", 60)
    gone = [f"gone-{n}" for n in range(1200)]
    shop.perpetual.wait_all(gone, 0.05)

    wait_until(lambda: shop.redis.pubsub_channels("perpetual:done:*") == ["perpetual:done:stays"], "they are left")

    shop.end("stays")
    assert stays.result().ok


@pytest.mark.parametrize("pause", [0, 2.5], ids=["at once", "when it has been left"])
def test_who_waits_again_for_the_same_id_is_told(shop, pause):
    """Between two waits for one id its subscription may still be there, or be gone."""
    stays = Call(shop.perpetual.wait, f"stays-{pause}", 60)
    task_id = f"again-{pause}"
    for _ in range(3):
        assert shop.perpetual.wait(task_id, 0.05).timed_out
    time.sleep(pause)
    begun = time.monotonic()
    assert shop.perpetual.wait(task_id, 0.05).timed_out
    assert time.monotonic() - begun < 1

    again = Call(shop.perpetual.wait, task_id, 60)
    wait_until(lambda: shop.subscribers(task_id), "it waits again")
    time.sleep(0.2)
    shop.end(task_id)
    begun = time.monotonic()
    assert again.result().ok
    assert time.monotonic() - begun < SOONER_THAN_A_LOOK
    shop.end(f"stays-{pause}")
    assert stays.result().ok


def test_a_killed_subscription_loses_nothing_of_a_stream(shop):
    """`CLIENT KILL` in the middle of ten thousand ends: every id is answered, once."""
    ids = [f"cut-{n}" for n in range(10_000)]
    wait = Call(lambda: [each.task_id for each in shop.perpetual.as_completed(ids, 60)])
    wait_until(lambda: shop.subscribers(ids[-1]), "it waits")
    for first in range(0, 10_000, 2500):
        shop.end(*ids[first : first + 1250])
        shop.redis.client_kill_filter(_type="pubsub")
        shop.end(*ids[first + 1250 : first + 2500])

    told = wait.result(60)

    assert len(told) == len(set(told)) == 10_000
