"""Records that were staged for a commit that never came are swept by the leader, whatever happens to the sweep."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import CeleryProcess, Project

UNIT = "perpetual:u:perpetual:proj.visit"
ITEM_KEYS = "perpetual:keys:perpetual:proj.visit"

#: A source whose items are given by the environment.
SOURCE = """
def numbers(poll):
    first, last = map(int, os.environ.get("NUMBERS", "0,0").split(","))
    return [Item(args=(n,), key=n) for n in range(first, last)]

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=numbers)
def visit(number): ...
"""

#: A sweep by hand, with a client whose connection plays tricks.
SWEEP = """
import os
import proj
from celery_perpetual.ledger.staged import staged_list, sweep_staged

store = proj.perpetual.store
trick = {trick!r}

def tricked(send):
    def call(*command):
        answer = send(*command)
        if trick == "dies after a step":
            os._exit(0)
        return send(*command) if trick == "sends everything twice" else answer
    return call

store.redis.eval, store.redis.evalsha = tricked(store.redis.eval), tricked(store.redis.evalsha)
print(sweep_staged(store, staged_list(store)))
"""


@pytest.fixture
def proj(project: Callable[..., Project]) -> Project:
    """A project whose beats are given what there is to do."""
    return project(SOURCE, perpetual_leader_ttl=3, perpetual_cycle_interval=0.2)


@pytest.fixture
def staged(proj: Project) -> str:
    """Kill a beat that has staged 1 500 of its 2 000 items; return its poll."""
    beat = proj.beat(env={"NUMBERS": "0,2000", "PERPETUAL_CRASH_AT": "poll.staged:3"})
    assert beat.wait() == -signal.SIGKILL
    return str(proj.redis.hget(UNIT, "claim"))


def poll_once(proj: Project, numbers: str = "0,0") -> CeleryProcess:
    """Start a beat and wait until it has polled."""
    before = proj.redis.llen("perpetual:polls:perpetual:proj.visit")
    beat = proj.beat(env={"NUMBERS": numbers})
    # The end of the dead beat's poll is written down before the first of its own.
    wait_until(lambda: proj.redis.llen("perpetual:polls:perpetual:proj.visit") >= before + 2, "the beat has polled")
    return beat


def make_old(redis: redis.Redis) -> None:
    """Let a day pass for what is staged."""
    for entry, _ in redis.zscan_iter("perpetual:staged"):
        redis.zincrby("perpetual:staged", -86_400_000, entry)


def chunks(redis: redis.Redis) -> list[str]:
    return sorted(redis.scan_iter("perpetual:i:*"))


def check_that_nothing_is_left(redis: redis.Redis) -> None:
    assert chunks(redis) == []
    assert redis.hlen(ITEM_KEYS) == 0
    assert redis.zcard("perpetual:staged") == 0


def test_the_leader_sweeps_what_a_dead_poll_has_staged(proj: Project, store_redis: redis.Redis, staged: str) -> None:
    """Staged records have a TTL, stay while their poll is open or young, and go with their item keys after that."""
    assert chunks(store_redis) == [f"perpetual:i:{staged}:{n}" for n in range(3)]
    assert all(store_redis.ttl(key) > 0 for key in chunks(store_redis))
    assert store_redis.hlen(ITEM_KEYS) == 1500
    make_old(store_redis)
    assert proj.run_python(SWEEP.format(trick="")).split() == ["0"], "the poll is open, it may still commit"
    store_redis.zadd("perpetual:staged", {f"{staged} perpetual:proj.visit": int(store_redis.time()[0]) * 1000})

    beat = poll_once(proj)

    assert proj.run_python(SWEEP.format(trick="")).split() == ["0"], "it may be of a moment ago"
    assert len(chunks(store_redis)) == 3
    make_old(store_redis)
    wait_until(lambda: not store_redis.exists("perpetual:staged"), "the leader sweeps", timeout=5)
    check_that_nothing_is_left(store_redis)
    assert store_redis.hget(UNIT, "inflight") is None
    assert beat.terminate()[0] == 0


def test_a_sweep_spares_item_keys_that_another_poll_has_taken(
    proj: Project, store_redis: redis.Redis, staged: str
) -> None:
    """Items that were staged in vain and then enqueued by the next poll keep their keys."""
    beat = poll_once(proj, "1000,1100")
    make_old(store_redis)

    wait_until(lambda: not store_redis.exists("perpetual:staged"), "the leader sweeps", timeout=5)

    messages = queued(store_redis)
    assert [message.args[0] for message in messages] == list(range(1000, 1100))
    assert store_redis.hgetall(ITEM_KEYS) == {str(message.args[0]): message.id for message in messages}
    assert not any(staged in key for key in store_redis.scan_iter("*"))
    assert beat.terminate()[0] == 0


@pytest.mark.parametrize("trick", ["dies after a step", "sends everything twice"])
def test_a_sweep_that_is_cut_short_or_repeated_leaves_nothing(
    proj: Project, store_redis: redis.Redis, staged: str, trick: str
) -> None:
    """A sweeper that dies between two steps, or whose answers get lost, leaves everything for the next to find."""
    assert poll_once(proj).terminate()[0] == 0
    make_old(store_redis)

    proj.run_python(SWEEP.format(trick=trick))
    proj.run_python(SWEEP.format(trick=""))

    assert not any(staged in key for key in store_redis.scan_iter("*"))
    check_that_nothing_is_left(store_redis)


def test_item_keys_go_even_if_the_records_have_expired(proj: Project, store_redis: redis.Redis, staged: str) -> None:
    """Where no beat ran for so long that the staged records have expired, their item keys are swept all the same."""
    assert poll_once(proj).terminate()[0] == 0
    make_old(store_redis)
    for key in chunks(store_redis):
        assert staged in key
        store_redis.pexpire(key, 1)
    wait_until(lambda: not chunks(store_redis), "the records expire", timeout=5)

    proj.run_python(SWEEP.format(trick=""))

    check_that_nothing_is_left(store_redis)
