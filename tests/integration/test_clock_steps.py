"""The store's clock was an hour ahead for a while: what was written then holds nothing up for an hour."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery_perpetual.store.keys import Keys
from tests.support import wait_until
from tests.support.console import Console
from tests.support.leased_tasks import SETTINGS, TASKS, all_well, tokens
from tests.support.stream_events import events, poll_events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project

KEYS = Keys("perpetual")
UNIT = "perpetual:proj.work"
HOUR_MS = 3_600_000

WORK = """
@app.task(base=PerpetualTask, poll_every=1, next_batch=lambda: [])
def work(): ...
"""


def ahead() -> int:
    return int(time.time() * 1000) + HOUR_MS


def polled_ahead(proj: Project, **claim: Any) -> None:
    """Leave a unit as a poll in the hour ahead leaves it."""
    later = ahead()
    proj.redis.hset(KEYS.unit(UNIT), mapping={"slot": later, "polled": later, "anchor": later, **claim})
    proj.redis.zadd(KEYS.due, {UNIT: later + 1000})


def test_a_unit_that_was_polled_ahead_is_polled_at_once(project: Callable[..., Project]) -> None:
    """Its slot, its last poll and its due time lie an hour ahead; it is polled now, and goes on at its pace."""
    proj = project(WORK, perpetual_leader_ttl=3)
    beat = proj.beat().ready()
    wait_until(lambda: poll_events(proj.redis), "it is polled")
    beat.terminate()
    polled_ahead(proj)
    before = len(poll_events(proj.redis))

    proj.beat()

    wait_until(lambda: len(poll_events(proj.redis)) >= before + 3, "it is polled on", timeout=30)
    (stepped,) = events(proj.redis, "alert.clock_stepped")
    assert stepped["units"] == 1
    assert float(proj.redis.hget(KEYS.unit(UNIT), "anchor")) <= time.time() * 1000


def test_a_claim_that_was_taken_ahead_is_no_obstacle(project: Callable[..., Project]) -> None:
    """It lasts from now for as long as it was to last, for a poll by hand too."""
    proj = project(WORK, perpetual_leader_ttl=3)
    proj.beat().ready()
    wait_until(lambda: poll_events(proj.redis), "it is polled")
    later = ahead()
    polled_ahead(proj, claim="gone", claimed=f"{later:.0f} {later:.0f} {later + 1000:.0f} schedule gone:1")

    with Console(proj) as console:
        wait_until(
            lambda: console("perpetual.poll('proj.work')")["status"] == "empty", "a poll by hand takes place", 30
        )


def test_a_lead_that_was_taken_ahead_ends_in_time(project: Callable[..., Project]) -> None:
    """The key of a dead leader would live for an hour; a beat leads after one TTL."""
    proj = project(WORK, perpetual_leader_ttl=3)
    proj.redis.set(KEYS.leader, "gone:1", px=HOUR_MS)
    begun = time.monotonic()
    proj.beat()

    wait_until(lambda: poll_events(proj.redis), "a beat leads and polls", timeout=30)
    assert time.monotonic() - begun < 20


def test_a_pause_that_would_be_over_ahead_is_kept(project: Callable[..., Project]) -> None:
    """It ends by itself, but it is forgotten only a day later: with the clock back, it holds again."""
    proj = project(WORK)
    with Console(proj) as console:
        for hours, kept in ((1, True), (48, False)):
            now = "datetime.datetime.now(datetime.timezone.utc)"
            paused = f"perpetual.pause('proj.work', until={now} + datetime.timedelta(hours=1))"
            ended = f"{now} - datetime.timedelta(hours={hours})"
            console(f"perpetual.pauses.pause(__import__('dataclasses').replace({paused}, until={ended}))")
            console("perpetual.cycle()")
            assert proj.redis.hexists(KEYS.paused, UNIT) is kept


def test_a_worker_that_reported_ahead_and_dies_is_found(project: Callable[..., Project]) -> None:
    """Its deadline lies an hour ahead; what it ran runs again."""
    proj = project(f"ITEMS = 2\n{TASKS}", **SETTINGS)
    proj.beat().ready()
    victim = proj.worker().ready()
    wait_until(lambda: len(tokens(proj, "begin")) == 2, "two have begun")
    victim.kill9()
    for name in proj.redis.zrange(KEYS.workers, 0, -1):
        proj.redis.zadd(KEYS.workers, {name: ahead()})
    proj.write("released", "")
    proj.worker().ready()

    wait_until(lambda: len(tokens(proj, "end")) == 2, "both end", timeout=40)
    all_well(proj, 2)


def test_batches_of_the_hour_ahead_are_published_and_watched(project: Callable[..., Project]) -> None:
    """A batch that waits for its relay goes out at once, and an item without a message is resent in time."""
    proj = project(f"ITEMS = 2\n{TASKS}", **SETTINGS)
    proj.run_python(
        "import proj; assert proj.perpetual.poll(proj.deliver).count == 2; proj.perpetual.pause(everything=True)"
    )
    (poll,) = proj.redis.zrange(KEYS.open, 0, -1)
    later = ahead()
    proj.redis.zadd(KEYS.open, {poll: later})
    proj.redis.hset(KEYS.poll(poll), mapping={"pub_at": later, "at": later, "pub": 0})
    proj.redis.zadd(KEYS.outbox, {poll: later})
    proj.redis.delete("celery")

    proj.beat().ready()
    wait_until(lambda: proj.redis.llen("celery") == 2, "it is published")
    proj.redis.hset(KEYS.poll(poll), "pub_at", later)
    proj.redis.delete("celery")
    proj.write("released", "")
    proj.worker("-Q", "other").ready()
    wait_until(lambda: proj.redis.llen("celery") == 2, "what is lost is resent", timeout=30)
    assert proj.redis.zscore(KEYS.open, poll) < ahead() - HOUR_MS / 2
