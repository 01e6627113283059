"""A queue that no worker consumes, under beats and other processes that are killed in the middle of what they do."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.killer import Killer, Nursery, Snapshot
from tests.support.ladder import earlier, steps
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

STEPS = {"notice": 1, "wake": 2, "spawn": 3, "event": 5, "park": 7}


def test_each_step_once_across_the_death_of_a_leader(project: Callable[..., Project]) -> None:
    """Notice, wake, hook, event, park: each at its time, and once, though the beat is killed after the first two.

    The parked item has its exits: recovered, it is run by the worker that comes at last.
    """
    proj = project(
        """
        def scale(*, queue, waiting, oldest_seconds, cause, **_):
            ledger.record(f"{queue} {waiting} {cause}", "scaled")

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,), queue="reports", key=1)], bind=True)
        def deliver(self, n):
            ledger.record(self.request.id, "ran")
        """,
        perpetual_starvation=STEPS, perpetual_starvation_spawn="proj.scale", perpetual_cycle_interval=0.2,
        perpetual_leader_ttl=3,
    )  # fmt: skip
    first = proj.beat()
    wait_until(lambda: events(proj.redis, "starvation.wake"), "the workers of the queue are asked")
    first.kill9()
    proj.beat()
    wait_until(lambda: events(proj.redis, "starvation.parked"), "the item is parked", 40)

    enqueued = proj.redis.xrange("perpetual:events")
    begun = next(int(entry.split("-")[0]) / 1000 for entry, fields in enqueued if fields["event"] == "poll")
    for step, name in (
        ("notice", "notice"),
        ("wake", "wake"),
        ("spawn", "spawn"),
        ("event", "starved"),
        ("park", "parked"),
    ):
        (found,) = events(proj.redis, f"starvation.{name}")
        waited = datetime.fromisoformat(found["at"].replace("Z", "+00:00")).timestamp() - begun
        # A leader that is killed is replaced within its TTL.
        assert STEPS[step] - 0.5 <= waited < STEPS[step] + 3 + 4, (step, waited)
        assert (found["queue"], found["cause"]) == ("reports", "no_consumer")
    wait_until(
        lambda: [row.id for row in proj.rows("scaled")] == ["reports 1 no_consumer"], "the hook was called, once"
    )

    task_id = events(proj.redis, "starvation.parked")[0]["task_id"]
    done = proj.celery("perpetual", "recover", task_id, "--reason", "a worker comes")
    assert done.returncode == 0, done
    proj.worker("-Q", "reports", pool="threads")
    wait_until(lambda: [row.id for row in proj.rows("ran")] == [task_id], "it runs, once")
    wait_until(lambda: proj.redis.zcard("perpetual:open") == 0, "it has ended")
    assert proj.redis.hlen("perpetual:parked") == 0


def test_a_process_that_dies_at_any_write_of_the_ladder(
    project: Callable[..., Project], redis_url: str, store_redis: redis.Redis, raw_redis: redis.Redis
) -> None:
    """Killed between any two writes, it leaves each step to the next process, and each is reported once.

    The hook may be called by both then, with the same name of the episode.
    """
    with Killer(redis_url) as killer:
        proj = project(
            """
            from celery_perpetual.starvation.ladder import Ladder

            def scale(*, queue, waiting, oldest_seconds, cause, episode):
                ledger.record(episode, "scaled")

            @app.task(base=PerpetualTask, poll_every=3600, next_batch=lambda: [Item((1,), key=1)])
            def deliver(n): ...

            def climb():
                ladder = Ladder(perpetual)
                ladder.once(whole=True)
                ladder.finish(20)
            """,
            store=killer.url, perpetual_starvation_spawn="proj.scale",
            perpetual_starvation={"notice": 0.1, "wake": 0.1, "spawn": 0.1, "event": 0.1, "park": None},
        )  # fmt: skip
        calls: list[int] = []
        with Nursery(proj, killer) as nursery:
            nursery.run("perpetual.poll('proj.deliver')\ntime.sleep(0.2)")
            waiting = Snapshot(raw_redis)

            def check(was_killed: bool) -> None:
                before = sum(calls)
                if was_killed:
                    set_back(store_redis, 61_000)
                    nursery.run("assert perpetual.cycle().errors == {}")
                assert steps(store_redis) == ["notice", "wake", "spawn", "starved"]
                assert json.loads(store_redis.hget("perpetual:starving", "celery"))["done"].keys() == {"wake", "spawn"}
                episodes = [row.id for row in proj.rows("scaled")][before:]
                assert len(set(episodes)) == 1
                calls.append(len(episodes))

            nursery.kill_before_each_write("climb()", waiting.restore, check)

    assert set(calls) == {1, 2}  # a process may have died before its call, and behind it
    assert calls[-1] == 1


def set_back(client: redis.Redis, by: int) -> None:
    """Let so many ms pass for the ladder, and for a process that has asked for the lock and died."""
    client.delete("perpetual:cycle")
    for text in client.hvals("perpetual:starving"):
        client.hset("perpetual:starving", "celery", json.dumps(earlier(json.loads(text), by)))
    if text := client.get("perpetual:watching"):
        client.set("perpetual:watching", json.dumps(earlier(json.loads(text), by)))
