"""A process that recovers, relays or acts for an operator dies between any two of its calls to Redis."""

from __future__ import annotations

import json
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
    """One ran and one was received; whenever the pass dies, all three are in the queue once, and one is recovered."""
    proj = project("ITEMS = 3\n" + TASKS, store=killer.url, **SETTINGS, worker_prefetch_multiplier=2)
    with Nursery(proj, killer) as nursery:
        nursery.run("perpetual.poll('proj.deliver')")
        victim = proj.worker(concurrency=1).ready()
        wait_until(lambda: len(tokens(proj, "begin")) == 1, "one has begun")
        wait_until(lambda: sum(map(store_redis.hlen, store_redis.keys("perpetual:tags:*"))) == 2, "it has reported two")
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
            assert sorted(Counter(message.id for message in queued(store_redis)).values()) == [1] * 3
            assert len(events(proj, "lease.lost")) == 1
            states = [text.split("|")[3:5] for text in store_redis.hvals("perpetual:states")]
            assert states == [["1", "run"]]

        assert len(nursery.kill_before_each_write("perpetual.cycle()", prepare, check)) > 5


#: Four items: the first has failed, the second is parked, the third runs, the fourth waits.
FOUR = """
def items():
    return [Item((n,), key=n) for n in range(4)]

@app.task(name="deliver", base=PerpetualTask, poll_every=3600, next_batch=items, on_lost="park")
def deliver(n):
    pass

def prepare():
    from tests.support.contract import begin, finish, lose
    failed, parked, runs, waits = perpetual.poll("deliver").task_ids
    lose(perpetual, parked)
    begin(perpetual, runs)
    finish(perpetual, failed, "failure", ValueError("no"))
    celery_stores(failed)

def celery_stores(task_id):
    app.backend.mark_as_failure(task_id, ValueError("no"))

def ids():
    (poll,) = [each.poll_id for each in perpetual.polls("deliver") if each.count == 4]
    return [poll[:28] + f"{index:08x}" for index in range(4)]
"""

VERBS = ["perpetual.fail(ids()[2], 'a bad row')", "perpetual.retry(ids()[0])"]
OTHER_VERBS = [
    "perpetual.fail(ids()[1], 'a bad row')", "perpetual.cancel(ids()[3])", "perpetual.release(ids()[2])",
    "perpetual.recover(ids()[1])", "assert not perpetual.drain(0).completed",
]  # fmt: skip

#: The same once more, by an operator who has seen no answer.
AGAIN = """
try:
    {verb}
except NotFound:
    pass
"""


def facts(client: redis.Redis) -> dict[str, object]:
    """Everything that a verb may change; of tasks that it has enqueued the number stands for the id."""
    (batch,) = [key for key in client.scan_iter("perpetual:p:*") if client.hget(key, "n") == "4"]
    first = batch.split(":")[-1][:28]

    def name(task_id: str) -> str:
        return f"{'item' if task_id[:28] == first else 'new'} {int(task_id[28:], 16)}"

    ends = [
        json.loads(entry["data"]) for _, entry in client.xrange("perpetual:events") if entry["event"] == "completion"
    ]
    return {
        "messages": sorted(name(message.id) for message in queued(client)),
        "ends": sorted((name(end["task_id"]), end["status"]) for end in ends),
        "results": {
            name(key.removeprefix("celery-task-meta-")): json.loads(client.get(key) or "")["status"]
            for key in client.scan_iter("celery-task-meta-*")
        },
        "keys": {key: name(task_id) for key, task_id in client.hgetall("perpetual:keys:perpetual:deliver").items()},
        "failed": client.zrange("perpetual:failed:perpetual:deliver", 0, -1),
        "in flight": client.hget("perpetual:u:perpetual:deliver", "inflight"),
        "leases": sorted(map(name, client.hkeys("perpetual:leases"))),
        "parked": sorted(map(name, client.hkeys("perpetual:parked"))),
        "lost": sorted(map(name, client.zrange("perpetual:resend", 0, -1))),
        "paused": client.hkeys("perpetual:paused"),
    }


@pytest.mark.parametrize("verb", [*VERBS, *(pytest.param(each, marks=pytest.mark.matrix) for each in OTHER_VERBS)])
def test_an_operator_who_repeats_a_verb(
    project: Callable[..., Project], killer: Killer, store_redis: redis.Redis, raw_redis: redis.Redis, verb: str
) -> None:
    """However a verb dies, the same one once more brings what it would have brought, and a pass sends what it left."""
    proj = project(FOUR, store=killer.url, result_backend=killer.url)
    with Nursery(proj, killer) as nursery:
        nursery.run("prepare()")
        begun = Snapshot(raw_redis)
        nursery.run(f"{verb}\nperpetual.cycle()")
        right = facts(store_redis)

        def check(was_killed: bool) -> None:
            # The lock and the claim of the process that died are over after a minute.
            for key in store_redis.scan_iter("perpetual:replaying:*"):
                store_redis.delete(key)
            store_redis.hdel("perpetual:u:perpetual:deliver", "claim", "claimed")
            nursery.run((AGAIN.format(verb=verb) if was_killed else "") + "perpetual.cycle()")
            assert facts(store_redis) == right

        nursery.kill_before_each_write(verb, begun.restore, check)
