"""A next_batch that kills or exhausts the beats that run it is evaluated by workers; the rest is polled on."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

import psutil
import pytest

from celery_perpetual.events import PART_FAILED
from tests.support import wait_until
from tests.support.stream_events import events, poll_events, polls_behind

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


EVERY = 6


CULPRIT = """
def fine(poll):
    ledger.record(poll.task, "polled")

def deadly(poll):
    ledger.record(poll.task, "deadly")
    if poll.last_polled_at is not None:
        os._exit(1)

def nothing(): ...

for number in range(99):
    app.task(base=PerpetualTask, name=f"proj.fine{{number}}", poll_every={every}, next_batch=fine)(nothing)
app.task(base=PerpetualTask, name="proj.deadly", poll_every={every}, next_batch=deadly)(nothing)
"""


@pytest.mark.long
def test_a_next_batch_that_kills_beats_goes_to_the_worker_alone(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Two of three beats die of one unit among a hundred; then it alone is polled in the worker."""
    proj = project(CULPRIT.format(every=EVERY), perpetual_leader_ttl=3)
    worker = proj.worker(concurrency=1).ready()
    beats = [proj.beat() for _ in range(3)]

    wait_until(lambda: sum(not beat.alive for beat in beats) == 2, "two beats die of it", timeout=60, interval=0.1)
    survivor = next(beat for beat in beats if beat.alive)
    wait_until(lambda: len(proj.rows("deadly")) >= 4, "its poll goes to the worker", interval=0.1)
    died = max(row.time for row in proj.rows("deadly")[:3])
    wait_until(lambda: time.time() > died + 3 + 3 * EVERY, "the third beat leads for two slots", interval=0.1)

    deadly = proj.rows("deadly")
    assert survivor.alive
    # The first of all, two that killed, and what came afterwards.
    assert {row.pid for row in deadly[:3]} == {beat.pid for beat in beats if beat is not survivor}
    assert not {row.pid for row in deadly[3:]} & {beat.pid for beat in beats}
    assert {row.pid for row in proj.rows("polled") if row.time > died} == {survivor.pid}
    assert worker.alive
    assert {alert["unit"] for alert in events(store_redis, "alert.poll_killed_leader")} == {"perpetual:proj.deadly"}

    polls = defaultdict(list)
    for outcome in poll_events(store_redis):
        if outcome.status == "empty":
            polls[outcome.unit].append(outcome)
    polls.pop("perpetual:proj.deadly", None)
    assert len(polls) == 99
    lost = {
        unit: missed
        for unit, seen in polls.items()
        if (missed := round((seen[-1].slot - seen[0].slot) / EVERY) + 1 - polls_behind(seen)) > 2
    }
    assert lost == {}
    assert min(seen[-1].slot for seen in polls.values()) > died


MANY_HANG = """
def hang():
    time.sleep(3600)

def fine(poll):
    ledger.record(poll.task, "polled")

def nothing(): ...

for number in range(200):
    app.task(base=PerpetualTask, name=f"proj.hang{number}", poll_every=1, poll_timeout=0.2, next_batch=hang,
             queue="hanging")(nothing)
for number in range(5):
    app.task(base=PerpetualTask, name=f"proj.fine{number}", poll_every=1, next_batch=fine)(nothing)
"""


#: perpetual_poll_threads, perpetual_max_abandoned_polls, and those that run no user code.
MOST_THREADS = 8 + 16 + 10


@pytest.mark.long
def test_two_hundred_polls_that_hang_cost_a_bounded_number_of_threads(project: Callable[..., Project]) -> None:
    """When beat has no thread left, polls go to the worker: the rest is polled on, and beat lives."""
    proj = project(MANY_HANG)
    worker = proj.worker("-Q", "celery,hanging").ready()
    beat = proj.beat()
    most = 0

    def polled_in_worker() -> bool:
        nonlocal most
        most = max(most, psutil.Process(beat.pid).num_threads())
        children = set(worker.children())
        seen = defaultdict(int)
        for row in proj.rows("polled"):
            seen[row.id] += row.pid in children
        return len(seen) == 5 and min(seen.values()) >= 5

    wait_until(polled_in_worker, "every healthy task is polled five times by the worker", timeout=60, interval=0.1)

    assert 24 <= most <= MOST_THREADS
    assert beat.alive
    assert beat.events(PART_FAILED) == []
    assert beat.terminate()[0] == 0
