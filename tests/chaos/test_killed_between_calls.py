"""A process that recovers, relays or acts for an operator dies between any two of its calls to Redis."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.killer import Killer, Nursery, Snapshot
from tests.support.leased_tasks import SETTINGS, TASKS, events, tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.support import Project

#: Keys that a dead worker leaves, and a pass of the cycle empties.
LEFT = ("unacked", "perpetual:workers", "perpetual:resend")

#: Passes, until these keys are gone.
PASSES = f"""
until = time.monotonic() + 20
while time.monotonic() < until and perpetual.store.redis.exists(*{LEFT}):
    perpetual.cycle()
    time.sleep(0.05)
"""


@pytest.fixture
def killer(redis_url: str) -> Iterator[Killer]:
    """Stands before the server."""
    with Killer(redis_url) as killer:
        yield killer


def let_time_pass(client: redis.Redis) -> None:
    """A process was in contact just now, and the lock of a pass that died has expired."""
    seconds, micros = client.time()
    client.set("perpetual:seen", int(seconds) * 1000 + int(micros) // 1000)
    client.delete("perpetual:cycle")


def test_a_pass_that_recovers_the_tasks_of_a_dead_worker(
    project: Callable[..., Project], killer: Killer, store_redis: redis.Redis, raw_redis: redis.Redis
) -> None:
    """Two ran and two were received; whenever the pass dies, each of six is in the queue once, and two are recovered."""
    proj = project("ITEMS = 6\n" + TASKS, store=killer.url, **SETTINGS, worker_prefetch_multiplier=2)
    with Nursery(proj, killer) as nursery:
        nursery.run("perpetual.poll('proj.deliver')")
        victim = proj.worker().ready()
        wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
        wait_until(
            lambda: sum(map(store_redis.hlen, store_redis.keys("perpetual:tags:*"))) == 4, "it has reported four"
        )
        victim.kill9()
        for worker in store_redis.zrange("perpetual:workers", 0, -1):
            store_redis.zadd("perpetual:workers", {worker: 1})
        dead = Snapshot(raw_redis)

        def prepare() -> None:
            dead.restore()
            let_time_pass(store_redis)

        def check(was_killed: bool) -> None:
            let_time_pass(store_redis)
            if was_killed:
                nursery.run(PASSES)
            assert not store_redis.exists(*LEFT, "unacked_index")
            assert sorted(Counter(message.id for message in queued(store_redis)).values()) == [1] * 6
            assert len(events(proj, "lease.lost")) == 2
            states = [text.split("|")[3:5] for text in store_redis.hvals("perpetual:states")]
            assert states == [["1", "run"]] * 2

        assert len(nursery.kill_before_each_write("perpetual.cycle()", prepare, check)) > 5
