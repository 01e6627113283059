"""The scripts that settle an end and send a batch's message, called again, too late, and against spoilt keys.

A client repeats a call whose reply got lost, so after the second call everything must be as after the first. And Redis
rolls nothing back: a script that fails in the middle would have written half of what it means.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import StoreUnavailable
from celery_perpetual.ledger.ids import item_id, parse_item_id
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import encode
from celery_perpetual.store.scripts import script
from tests.support.script_cases import FIRST, LATE, UNKNOWN
from tests.support.script_slots import end_slots
from tests.support.scripts import store_at

if TYPE_CHECKING:
    from collections.abc import Iterator

UNIT = "perpetual:proj.find"
POLL = "018bcfe5-6800-8abc-8def-0123ffffffff"
HOUR = 3_600_000


class World:
    """A batch of three items as a commit leaves it; the second opted out of having a key."""

    def __init__(self, url: str) -> None:
        self.store = store_at(url)
        self.redis: Any = self.store.redis

    def commit(self, *, window: int = 0, on_done: bool = False, items: int = 3) -> None:
        """Start anew with a batch in which everything is open."""
        keys, client = self.store.keys, self.redis
        client.flushall()
        for index in range(items):
            key = None if index == 1 else f"key {index}"
            client.rpush(
                keys.chunk(POLL, 0), encode(CheckedItem("proj.work", b"[[],{}]", "json", {}, key), "proj.find")
            )
            if key is not None:
                client.hset(keys.item_keys(UNIT), key, item_id(POLL, index))
        facts = {"unit": UNIT, "task": "proj.find", "n": items, "left": items, "pub": items, "at": 1}
        client.hset(keys.poll(POLL), mapping=facts | {"closing": f"{window} {int(on_done)} 0 - - -"})
        client.hset(keys.unit(UNIT), "inflight", items)

    def finish(self, index: int = 0, status: str = "success", *, task_id: str = "", **changed: Any) -> list[Any]:
        """End one item, or a task that is none; returns the script's answer."""
        task_id = task_id or item_id(POLL, index)
        head = json.dumps({"v": 1, "task_id": task_id, "status": status, "final": True})[:-1]
        name = "end_item" if parse_item_id(task_id) else "end_task"
        reply: list[Any] = script(name)(self.store, **{**end_slots(self.store.keys, task_id, status, head), **changed})
        return reply

    def once(self) -> int:
        """Send the batch's message."""
        reply: int = script("push_once")(
            self.store, waiting=self.store.keys.batches, targets=["broker"], entry=POLL,
            commands=["LPUSH", 1, 1, "message"],
        )  # fmt: skip
        return reply

    def dump(self) -> dict[str, Any]:
        """Everything that is stored, and until when."""
        found = self.redis.scan_iter()
        return {key.decode(): (self.redis.dump(key), self.redis.pexpiretime(key)) for key in found}

    def spoil(self, key: str) -> None:
        """Give a key another type than it has or would have."""
        was = self.redis.type(key)
        self.redis.delete(key)
        if was == b"list":
            self.redis.set(key, "spoilt")
        else:
            self.redis.rpush(key, "spoilt")


@pytest.fixture
def world(redis_url: str) -> Iterator[World]:
    world = World(redis_url)
    yield world
    world.store.close()


def late(world: World) -> int:
    """The counter of late ends."""
    return int(world.redis.hget("P:counters", "late") or 0)


@pytest.mark.parametrize("head", [None, ""], ids=["announced", "silent"])
@pytest.mark.parametrize("window", [0, HOUR], ids=["key free", "key kept"])
def test_an_end_that_is_sent_twice_changes_nothing_the_second_time(world: World, window: int, head: str | None) -> None:
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
    assert world.redis.exists(f"P:recent:{UNIT}") == (1 if window else 0)


def test_the_ends_of_keys_are_remembered_for_a_window_and_not_much_longer(world: World) -> None:
    """However many ends come after one another; what is outdated is forgotten by one end of eight."""
    world.commit(window=HOUR, items=40)
    world.redis.zadd(f"P:recent:{UNIT}", {f"outdated {n}": 1 for n in range(150)})
    for index in [*range(9), *range(10, 30)]:
        assert world.finish(index) == FIRST
        assert world.redis.pttl(f"P:recent:{UNIT}") > HOUR

    assert world.redis.zrange(f"P:recent:{UNIT}", 0, 0, byscore=False) == [b"key 0"]
    world.redis.delete(f"P:recent:{UNIT}")
    assert world.finish(33) == FIRST
    assert world.redis.pttl(f"P:recent:{UNIT}") > HOUR
    world.redis.hset(f"P:p:{POLL}", "remembered_until", world.store.now() + HOUR - 1)
    world.redis.persist(f"P:recent:{UNIT}")
    assert world.finish(35) == FIRST
    assert world.redis.pttl(f"P:recent:{UNIT}") > HOUR


def test_a_chunk_goes_when_its_items_have_ended(world: World) -> None:
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


def test_records_that_a_wrong_counter_has_kept_go_with_a_rebuild(world: World) -> None:
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
def test_the_last_end_asks_again_for_the_batchs_message_until_that_is_sent(world: World, head: str | None) -> None:
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


def test_a_batch_without_a_message_asks_for_none(world: World) -> None:
    """Where nobody wants to hear of the batch, its last end has nothing to send."""
    world.commit(items=1)

    assert world.finish(0) == FIRST
    assert world.redis.zcard("P:batches") == 0


def test_the_message_of_a_batch_is_pushed_once(world: World) -> None:
    """The second call pushes nothing, and says so."""
    world.commit(on_done=True, items=1)
    world.finish(0)

    assert world.once() == 1
    after = world.dump()
    assert world.once() == 0
    assert world.dump() == after


@pytest.mark.parametrize("place", ["item of a batch", "task of its own"])
def test_a_late_end_changes_only_its_counter(world: World, place: str) -> None:
    """Another end of the same task leaves the first one, its batch and every TTL alone."""
    world.commit()
    changed = {} if place == "item of a batch" else {"task_id": "any-form"}
    assert world.finish(0, **changed) == FIRST
    before = world.dump()

    assert world.finish(0, "failure", **changed) == LATE
    assert world.finish(0, "revoked", **changed) == LATE

    assert late(world) == 2
    assert {key: value for key, value in world.dump().items() if key != "P:counters"} == before


def test_an_end_after_the_record_has_expired_is_late(world: World) -> None:
    """The ledger knows which items have ended when their records are gone."""
    world.commit()
    world.finish(0)
    task_id = item_id(POLL, 0)
    world.redis.delete(f"P:completion:{task_id}", f"P:done:{task_id}:queue")
    before = world.dump()

    assert world.finish(0, "failure") == LATE

    assert late(world) == 1
    assert {key: value for key, value in world.dump().items() if key != "P:counters"} == before


def test_a_task_that_nobody_knows_is_announced_without_a_batch(world: World) -> None:
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
def test_an_end_that_meets_a_key_of_a_wrong_type_writes_nothing(world: World, key: str) -> None:
    """It fails before its first write, whichever key is spoilt."""
    world.commit(window=HOUR, on_done=True, items=1)
    world.spoil(key)
    before = world.dump()

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        world.finish(0)

    assert world.dump() == before


@pytest.mark.parametrize("key", ["P:batches", "broker"])
def test_a_message_that_meets_a_key_of_a_wrong_type_stays_waiting(world: World, key: str) -> None:
    """Neither is the entry taken out without its message, nor the message pushed without taking the entry out."""
    world.commit(on_done=True, items=1)
    world.finish(0)
    world.redis.lpush("broker", "another")
    world.spoil(key)
    before = world.dump()

    with pytest.raises(StoreUnavailable, match="WRONGTYPE"):
        world.once()

    assert world.dump() == before
