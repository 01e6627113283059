"""Tasks whose polls tell when and why they took place, and the grid on which that should be."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.stream_events import PollEvent, seconds

if TYPE_CHECKING:
    import redis

    from tests.support import Project

# How late a poll may be where seven more processes want each core of the machine.
MOST_LAG = 2.0

CLOCK = """
def perpetual_task(name, every, **options):
    def task(*args, **kwargs):
        ledger.record(name, "ran")

    def registered(next_batch):
        def called(poll):
            ledger.record(poll.task, f"polled {poll.trigger}")
            return next_batch(poll)
        app.task(base=PerpetualTask, poll_every=every, next_batch=called, name=f"proj.{name}", **options)(task)

    return registered
"""


def check_grid(polls: list[PollEvent], every: float) -> None:
    """Every slot is a point of one grid and is polled once, not before its time and not much after it."""
    anchor = polls[0].slot
    for poll in polls:
        assert abs((poll.slot - anchor + every / 2) % every - every / 2) < 0.002
        assert 0 <= seconds(poll.data["started_at"]) - poll.slot < MOST_LAG
    assert all(before.slot < after.slot for before, after in pairwise(polls))


def elected(client: redis.Redis) -> float:
    """When the newest leader was elected."""
    leaders = [entry for entry, fields in client.xrange("perpetual:events") if '"elected"' in fields["data"]]
    return int(leaders[-1].split("-")[0]) / 1000


def calls(proj: Project, task: str) -> list[str]:
    """The triggers with which a task's next_batch was called."""
    return [row.what.split()[-1] for row in proj.rows() if row.id == f"proj.{task}" and row.what.startswith("polled")]
