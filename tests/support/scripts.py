"""A store, and what leads to the states in which its scripts are called."""

from __future__ import annotations

from typing import Any

from celery_perpetual.settings import Settings
from celery_perpetual.store.address import address
from celery_perpetual.store.connection import Store
from celery_perpetual.store.limits import Limits
from celery_perpetual.store.scripts import script
from tests.support.script_slots import DAY, NEXT_POLL, POLL, QUEUE, UNIT, ScriptSlots, Slots


def store_at(url: str, **options: Any) -> Store:
    """A store whose prefix is ``P``, with the default settings."""
    return Store(address(url), "P", Limits.of(Settings()), **options)


class World(ScriptSlots):
    """A store, and what leads to the states in which scripts are called. Everybody's first owner is ``a``."""

    def __init__(self, url: str) -> None:
        self.store = store_at(url)
        self.keys = self.store.keys
        self.redis: Any = self.store.redis

    def run(self, name: str, slots: Slots) -> Any:
        return script(name)(self.store, **slots)

    def led(self, owner: str = "a") -> None:
        term = self.run("lead", self.lead(owner))[0].decode()
        self.leader = f"{owner}:{term}"

    def registered(self) -> None:
        self.led()
        self.run("register", self.register())

    def claimed(self, poll: str = POLL, **options: Any) -> None:
        if not self.leader:
            self.registered()
        assert self.run("claim", self.claim(poll, **options))[1].startswith(b"claimed ")

    def claimed_without_facts(self) -> None:
        """As another release writes a claim, or a strange hand leaves it."""
        self.claimed()
        self.redis.hset(self.keys.unit(UNIT), "claimed", "1000:schedule")

    def claimed_by_earlier_term(self) -> None:
        self.claimed()
        self.run("resign", self.resign())
        self.led("b")

    def staged(self, chunks: int = 2) -> None:
        self.claimed()
        for chunk in range(chunks):
            assert self.run("stage", self.stage(chunk)) == 1

    def abandoned(self, chunks: int = 2) -> None:
        self.staged(chunks)
        self.run("close_polls", self.close_polls())

    def committed(self, **options: Any) -> None:
        self.claimed()
        assert self.run("commit", self.commit(**options)) == b"committed"

    def finished(self, *indexes: int) -> None:
        self.committed()
        for index in indexes:
            assert self.run("end_item", self.end_item(index))[0] == b"first"

    def has_failed(self, retries: str = "0|60000|2.0|3600000|0") -> None:
        """The item with key 1 has failed, and is held back."""
        self.committed(retries=retries)
        assert self.run("end_item", self.end_item(1, "failure"))[0] == b"first"

    def failed_and_came_again(self) -> None:
        """Keys 0 and 1 have failed before, and are in flight again."""
        self.committed(retries="3|0|2.0|3600000|1")
        for index in (0, 1):
            assert self.run("end_item", self.end_item(index, "failure"))[0] == b"first"
        self.claimed(NEXT_POLL, slot=2000)
        commit = self.commit(NEXT_POLL, items=2, retries="2|0|2.0|3600000|1", has_failed=True)
        assert self.run("commit", {**commit, "slot": 2000}) == b"committed"

    def ended_empty(self) -> None:
        """A poll that found nothing, and the next one is open: its outcome will be folded."""
        self.claimed()
        self.run("close_polls", self.close_polls())
        self.claimed(NEXT_POLL, slot=2000)

    def handed_over(self) -> None:
        self.led()
        self.redis.set(self.keys.handover, "b", px=DAY)
        self.run("resign", self.resign())

    def paused(self) -> None:
        self.registered()
        self.run("pause", self.pause())

    def pause_is_over(self) -> None:
        self.registered()
        self.run("pause", self.pause(until_ms=1))

    def orphaned(self, cursor: str) -> None:
        """A unit that was polled once, and was last known long ago."""
        self.claimed()
        self.run("close_polls", self.close_polls(cursor=cursor))
        self.redis.zadd(self.keys.units, {UNIT: 1})

    def followed(self) -> None:
        self.claimed()
        self.redis.rpush(self.keys.follow_ups(UNIT), "record 0", "record 1", "record 2")

    def waiting(self, *messages: str) -> None:
        """Messages in the queue, the next one first."""
        self.redis.lpush(QUEUE, *messages)
