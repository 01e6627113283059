"""The memory of the ends of item keys: how long it lasts, and what is found in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual.ledger.key_holders import holder_of
from celery_perpetual.ledger.ledger import Ledger
from tests.support import wait_until
from tests.support.ended_batch import HOUR, POLL, UNIT, EndedBatch
from tests.support.script_cases import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(redis_url: str) -> Iterator[EndedBatch]:
    world = EndedBatch(redis_url)
    yield world
    world.store.close()


def test_the_ends_of_keys_are_remembered_for_a_window_and_not_much_longer(world: EndedBatch) -> None:
    """However many ends come one after the other: what was remembered a window ago is remembered apart, and expires."""
    world.commit(window=2 * HOUR, items=12)
    recent, before = world.store.keys.recent(UNIT), world.store.keys.recent_before(UNIT)
    assert world.finish(0) == FIRST
    assert 6 * HOUR - 60_000 < world.redis.pttl(recent) <= 6 * HOUR

    world.redis.pexpire(recent, 4 * HOUR + 60_000)
    assert world.finish(2) == FIRST
    assert world.redis.hkeys(recent) == [b"key 0", b"key 2"]
    for seen_until in (world.store.now() - 1, world.store.now() + 30 * HOUR):
        world.redis.pexpire(recent, 4 * HOUR - 1)
        world.redis.hset(f"P:p:{POLL}", "young_until", seen_until)
        left = int(world.redis.hget(f"P:p:{POLL}", "left"))
        assert world.finish(13 - left) == FIRST
        assert world.redis.hkeys(recent) == [f"key {13 - left}".encode()]
        assert world.redis.pttl(before) <= 4 * HOUR < 6 * HOUR - 60_000 < world.redis.pttl(recent)
        young = int(world.redis.hget(f"P:p:{POLL}", "young_until")) - world.store.now()
        assert HOUR - 60_000 < young <= HOUR
    assert world.redis.hkeys(before) == [b"key 3"]


def test_ends_that_are_remembered_without_a_time_get_one(world: EndedBatch) -> None:
    """At the latest by the last end of a batch, and by the first one of the next."""
    world.commit(items=3)
    recent = world.store.keys.recent(UNIT)
    assert world.finish(0) == FIRST
    world.redis.persist(recent)
    assert world.finish(1) == FIRST
    assert world.finish(2) == FIRST
    assert 2 * HOUR < world.redis.pttl(recent) <= 3 * HOUR


def test_many_ends_that_count_no_more_are_freed_beside_the_work_of_the_store(world: EndedBatch) -> None:
    """Millions of them would hold up everyone, be it that another hash takes their place, or that they expire."""
    world.commit(window=HOUR)
    recent, before = world.store.keys.recent(UNIT), world.store.keys.recent_before(UNIT)
    outdated = {f"key {n}": f"1 {POLL}" for n in range(3000)}
    setting = "lazyfree-lazy-server-del"
    was = world.redis.config_get(setting)
    world.redis.config_set(setting, "no")  # as where the operator sets nothing
    try:
        for each, rest in ((recent, 2 * HOUR - 1), (before, 1 * HOUR - 1)):
            world.redis.hset(each, mapping=outdated)
            world.redis.pexpire(each, rest)
        freed = world.redis.info("memory")["lazyfreed_objects"]
        assert world.finish(0) == FIRST
        assert world.redis.hlen(before) == len(outdated)
        assert world.redis.hkeys(recent) == [b"key 0"]
        wait_until(lambda: world.redis.info("memory")["lazyfreed_objects"] > freed, "the older ones are freed")
    finally:
        world.redis.config_set(setting, was[setting])


@pytest.mark.parametrize("at", [0, 1], ids=["of late", "before"])
def test_an_end_is_found_wherever_it_is_remembered(world: EndedBatch, at: int) -> None:
    """By a poll that asks whether a key is taken, and by its key."""
    keys, now = world.store.keys, world.store.now()
    remembers = [keys.recent(UNIT), keys.recent_before(UNIT)]
    world.redis.hset(remembers[at], "a", f"{now} its-id")
    ledger = Ledger(world.store)

    assert ledger.taken(UNIT, ["a", "b"], POLL, since=now).in_flight == {"a"}
    assert ledger.taken(UNIT, ["a", "b"], POLL, since=now + 1).in_flight == set()
    assert holder_of(world.store, UNIT, "a").last == "its-id"
    world.redis.hset(remembers[at], "a", f"{now} ")
    assert holder_of(world.store, UNIT, "a").last is None
