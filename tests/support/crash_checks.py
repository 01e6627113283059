"""Crashes of a beat at named points, and what must hold after them: judged by the store and the broker."""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.broker import Message, queued
from tests.support.stream_events import events, leader

if TYPE_CHECKING:
    import redis

    from tests.support import CeleryProcess, Project


UNIT = "perpetual:u:perpetual:proj.visit"


ITEM_KEYS = "perpetual:keys:perpetual:proj.visit"

#: The batch is in the ledger.
COMMITTED = ("poll.committed", "poll.publishing", "poll.published", "message")


def crash(proj: Project, point: str) -> str | None:
    """Run a beat until it kills itself at a point; return the poll that was open, if it was before its commit."""
    name, _, nth = point.partition(":")
    beat = proj.beat(env={"DIE_OVER": nth} if name == "message" else {"PERPETUAL_CRASH_AT": point})
    assert beat.wait() == -signal.SIGKILL
    if point.startswith(COMMITTED):
        return None
    poll = proj.redis.hget(UNIT, "claim")
    assert poll is not None
    return str(poll)


def take_over(proj: Project) -> CeleryProcess:
    """Start the beat that goes on."""
    beat = proj.beat()

    def leads() -> bool:
        held = leader(proj.redis)
        return held is not None and held[0] == beat.pid

    wait_until(leads, "the second beat leads", timeout=10)
    return beat


def cursor(redis: redis.Redis) -> int:
    return int(redis.hget(UNIT, "cursor") or 0)


def batches(redis: redis.Redis) -> dict[str, int]:
    """Return the batches in the ledger, as what their ids start with and how many items they have."""
    prefix = "perpetual:p:"
    return {key[len(prefix) :][:28]: int(redis.hget(key, "n")) for key in redis.scan_iter(f"{prefix}*")}


def check_the_store_after_the_crash(redis: redis.Redis, lost: str | None) -> dict[str, int]:
    """A batch is true with all that belongs to it, or nothing of it is; return those that are."""
    committed = batches(redis)
    if lost is None:
        assert committed
    else:
        assert lost[:28] not in committed
    # The cursor counts items here.
    assert cursor(redis) == sum(committed.values()) == int(redis.hget(UNIT, "inflight") or 0)
    in_broker = queued(redis)
    numbers = {message.args[0] for message in in_broker}
    assert len(numbers) == len(in_broker)
    assert numbers <= set(range(cursor(redis)))
    assert {message.poll for message in in_broker} <= committed.keys()
    return committed


def check_that_nothing_waits_for_ever(redis: redis.Redis) -> None:
    """Records are those of committed batches, or have an end of their own."""
    for key in redis.scan_iter("perpetual:[id]:*"):
        poll = key.split(":")[2]
        assert redis.exists(f"perpetual:p:{poll}") or redis.ttl(key) > 0, key


def wait_for_all(redis: redis.Redis, total: int) -> list[Message]:
    """Wait until that many messages lie in the queue; return them."""
    wait_until(lambda: redis.llen("celery") >= total, f"{total} messages in the queue", timeout=30)
    return queued(redis)


def check_exactly_once(redis: redis.Redis, messages: list[Message], total: int) -> None:
    """Queue, cursor, item keys and counters tell one story."""
    assert sorted(message.args[0] for message in messages) == list(range(total))
    assert len({message.id for message in messages}) == total
    assert cursor(redis) == total
    assert redis.hgetall(ITEM_KEYS) == {str(message.args[0]): message.id for message in messages}
    assert int(redis.hget(UNIT, "inflight")) == total
    assert redis.zcard("perpetual:outbox") == 0
    by_poll = Counter(message.poll for message in messages)
    assert batches(redis) == by_poll
    for key in redis.scan_iter("perpetual:p:*"):
        number, published, left = redis.hmget(key, "n", "pub", "left")
        assert number == published == left
    enqueued = [event for event in events(redis, "poll") if event["status"] == "enqueued"]
    assert {event["poll_id"][:28]: event["count"] for event in enqueued} == by_poll
    assert len({event["slot"] for event in enqueued}) == len(enqueued)


def check_that_the_next_beat_goes_on(proj: Project, total: int, lost: str | None, committed: dict[str, int]) -> None:
    """Another beat brings the rest, keeps what was committed, and leaves out what was not."""
    beat = take_over(proj)
    messages = wait_for_all(proj.redis, total)
    wait_until(lambda: events(proj.redis, "poll")[-1]["status"] == "empty", "a poll finds nothing more")
    assert beat.terminate()[0] == 0
    check_exactly_once(proj.redis, messages, total)
    check_that_nothing_waits_for_ever(proj.redis)
    assert committed.keys() <= batches(proj.redis).keys()
    assert lost is None or lost[:28] not in batches(proj.redis)
