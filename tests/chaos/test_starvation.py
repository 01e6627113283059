"""A queue that no worker consumes, under real beats of which the leading one is killed in the middle."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

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
    assert [row.id for row in proj.rows("scaled")] == ["reports 1 no_consumer"]

    task_id = events(proj.redis, "starvation.parked")[0]["task_id"]
    done = proj.celery("perpetual", "recover", task_id, "--reason", "a worker comes")
    assert done.returncode == 0, done
    proj.worker("-Q", "reports", pool="threads")
    wait_until(lambda: [row.id for row in proj.rows("ran")] == [task_id], "it runs, once")
    wait_until(lambda: proj.redis.zcard("perpetual:open") == 0, "it has ended")
    assert proj.redis.hlen("perpetual:parked") == 0
