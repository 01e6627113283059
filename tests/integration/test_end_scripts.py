"""The scripts that store an end and send a batch's message, called again, too late, and against spoilt keys.

A client repeats a call whose reply got lost, so after the second call everything must be as after the first. And Redis
rolls nothing back: a script that fails in the middle would have written half of what it means.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import StoreUnavailable
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.store.scripts import script
from tests.support.ended_batch import HOUR, POLL, UNIT, EndedBatch
from tests.support.script_cases import FIRST, LATE, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(redis_url: str) -> Iterator[EndedBatch]:
    world = EndedBatch(redis_url)
    yield world
    world.store.close()


def late(world: EndedBatch) -> int:
    """The counter of late ends."""
    return int(world.redis.hget("P:counters", "late") or 0)


@pytest.mark.parametrize("head", [None, ""], ids=["announced", "silent"])
@pytest.mark.parametrize("window", [0, HOUR], ids=["key free", "key kept"])
def test_an_end_that_is_sent_twice_changes_nothing_the_second_time(
    world: EndedBatch, window: int, head: str | None
) -> None:
    """The second call leaves everything as it is, publishes nothing, and answers as the first one did."""
    changed = {} if head is None else {"head": head}
    world.commit(window=window)
    with world.redis.pubsub() as subscriber:
        subscriber.psubscribe("P:done*")
        subscriber.get_message(timeout=5)

        first = world.finish(0, **changed)
        after = world.dump()
        second = world.finish(0, **changed)

        heard = []
        while (message := subscriber.get_message(timeout=0.05)) is not None:
            heard.append(message)
    assert first == second == FIRST
    assert world.dump() == after
    assert len(heard) == (2 if head is None else 0)
    assert world.redis.hgetall(f"P:p:{POLL}")[b"left"] == b"2"
    assert world.redis.hget(f"P:u:{UNIT}", "inflight") == b"2"
    assert world.redis.hkeys(f"P:keys:{UNIT}") == [b"key 2"]
    recent = {key: text.split(b" ")[1] for key, text in world.redis.hgetall(f"P:recent:{UNIT}").items()}
    announced = item_id(POLL, 0).encode() if head is None else b""
    assert recent == ({b"key 0": announced} if window or announced else {})


def test_a_chunk_goes_when_its_items_have_ended(world: EndedBatch) -> None:
    """Be it full, or the last one."""
    world.commit(items=502)
    keys, records = world.store.keys, world.redis.lrange(f"P:i:{POLL}:0", 500, -1)
    world.redis.ltrim(keys.chunk(POLL, 0), 0, 499)
    world.redis.rpush(keys.chunk(POLL, 1), *records)

    for index in [0, 1, 500]:
        assert world.finish(index) == FIRST
    assert world.redis.exists(keys.chunk(POLL, 0), keys.chunk(POLL, 1)) == 2
    assert world.finish(501) == FIRST
    assert world.redis.keys("P:[id]:*1") == []
    for index in range(2, 499):
        assert world.finish(index) == FIRST
    assert world.redis.exists(keys.chunk(POLL, 0), keys.done(POLL, 0)) == 2
    assert world.finish(500) == [b"first", 0, 0]
    assert world.finish(499) == FIRST
    assert world.redis.keys("P:[id]:*") == []
    assert world.finish(0) == world.finish(501) == FIRST
    assert world.finish(501, head="{}") == LATE


def test_records_that_a_wrong_counter_has_kept_go_with_a_rebuild(world: EndedBatch) -> None:
    """No end of a batch with one chunk was the last one for it."""
    world.commit()
    world.redis.hset(f"P:p:{POLL}", "left", 5)
    for index in range(3):
        assert world.finish(index) == FIRST
    assert world.redis.llen(f"P:i:{POLL}:0") == 3

    assert script("rebuild_batch")(world.store, batch=f"P:p:{POLL}", poll=POLL)[0] == 1
    assert world.redis.keys("P:[id]:*") == []
    assert world.redis.pttl(f"P:p:{POLL}") > 0


@pytest.mark.parametrize("head", [None, ""], ids=["announced", "silent"])
def test_the_last_end_asks_again_for_the_batchs_message_until_that_is_sent(world: EndedBatch, head: str | None) -> None:
    """A repeated last end is answered with the message to send once more: the first reply may have got lost."""
    changed = {} if head is None else {"head": head}
    world.commit(on_done=True)
    assert [world.finish(0, **changed), world.finish(1, **changed)] == [FIRST, FIRST]

    assert [world.finish(2, **changed) for _ in range(3)] == [[b"first", POLL.encode(), 0]] * 3
    assert world.once() == 1
    assert world.finish(2, **changed) == FIRST
    assert world.redis.lrange("broker", 0, -1) == [b"message"]
    assert world.redis.keys("P:[id]:*") == []
    assert world.redis.hget(f"P:p:{POLL}", "left") == b"0"
    assert 0 < world.redis.pttl(f"P:p:{POLL}") <= world.store.limits.tombstone_ttl


def test_a_batch_without_a_message_asks_for_none(world: EndedBatch) -> None:
    """Where no function is to hear of the batch, its last end has nothing to send."""
    world.commit(items=1)

    assert world.finish(0) == FIRST
    assert world.redis.zcard("P:batches") == 0


def test_the_message_of_a_batch_is_pushed_once(world: EndedBatch) -> None:
    """The second call pushes nothing, and says so."""
    world.commit(on_done=True, items=1)
    world.finish(0)

    assert world.once() == 1
    after = world.dump()
    assert world.once() == 0
    assert world.dump() == after


@pytest.mark.parametrize("place", ["item of a batch", "task of its own"])
def test_a_late_end_changes_only_its_counter(world: EndedBatch, place: str) -> None:
    """Another end of the same task leaves the first one, its batch and every TTL alone."""
    world.commit()
    changed = {} if place == "item of a batch" else {"task_id": "any-form"}
    assert world.finish(0, **changed) == FIRST
    before = world.dump()

    assert world.finish(0, "failure", **changed) == LATE
    assert world.finish(0, "revoked", **changed) == LATE

    assert late(world) == 2
    assert {key: value for key, value in world.dump().items() if key != "P:counters"} == before


def test_an_end_after_the_record_has_expired_is_late(world: EndedBatch) -> None:
    """The ledger knows which items have ended when their records are gone."""
    world.commit()
    world.finish(0)
    task_id = item_id(POLL, 0)
    world.redis.delete(f"P:completion:{task_id}", f"P:done:{task_id}:queue")
    before = world.dump()

    assert world.finish(0, "failure") == LATE

    assert late(world) == 1
    assert {key: value for key, value in world.dump().items() if key != "P:counters"} == before


def test_a_task_that_nobody_knows_is_announced_without_a_batch(world: EndedBatch) -> None:
    """An id of our form whose batch is gone is announced; a silent end of it does nothing at all."""
    world.redis.flushall()

    assert world.finish(0, head="") == UNKNOWN
    assert world.dump() == {}
    assert world.finish(0) == FIRST
    assert json.loads(world.redis.get(f"P:completion:{item_id(POLL, 0)}"))["poll_id"] is None


@pytest.mark.parametrize(
    "key",
    [
        f"P:p:{POLL}",
        f"P:i:{POLL}:0",
        f"P:d:{POLL}:0",
        f"P:completion:{item_id(POLL, 0)}",
        "P:events",
        "P:batches",
        f"P:u:{UNIT}",
        f"P:keys:{UNIT}",
        f"P:recent:{UNIT}",
    ],
)
def test_an_end_that_meets_a_key_of_a_wrong_type_writes_nothing(world: EndedBatch, key: str) -> None:
    """It fails before its first write, whichever key is spoilt."""
    world.commit(window=HOUR, on_done=True, items=1)
    world.spoil(key)
    before = world.dump()

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        world.finish(0)

    assert world.dump() == before


@pytest.mark.parametrize("key", ["P:batches", "broker"])
def test_a_message_that_meets_a_key_of_a_wrong_type_stays_waiting(world: EndedBatch, key: str) -> None:
    """Neither is the entry taken out without its message, nor the message pushed without taking the entry out."""
    world.commit(on_done=True, items=1)
    world.finish(0)
    world.redis.lpush("broker", "another")
    world.spoil(key)
    before = world.dump()

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        world.once()

    assert world.dump() == before
