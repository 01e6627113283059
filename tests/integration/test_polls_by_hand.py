"""Polls by hand: what they pass over, what bounds them, and what becomes of them when something dies."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import redis

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.clock import MOST_LAG
from tests.support.console import Console
from tests.support.scripted_polls import SCRIPTED_POLLS, UNIT, ScriptedPolls, numbers
from tests.support.stream_events import poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import Project


def test_a_poll_by_hand_passes_over_what_stops_the_clock(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """Pause, back-off and enabled=False do not stop it, and it leaves the cadence alone."""
    assert polls.poll("fail(OSError())")["status"] == "failed"
    polls.console("perpetual.pause('proj.work', reason='for the night')")
    polls.console("perpetual.pause(everything=True, reason='all of it')")
    polls.console("setattr(work, 'perpetual_options', PerpetualOptions(enabled=False))")
    store_redis.zadd("perpetual:due", {UNIT: 10**15})

    outcome = polls.poll("[(1,)]")

    assert (outcome["status"], outcome["trigger"]) == ("enqueued", "manual")
    assert seconds(outcome["started_at"]) - seconds(outcome["slot"]) < 0.1
    assert store_redis.zscore("perpetual:due", UNIT) == 10**15
    assert store_redis.hget(f"perpetual:u:{UNIT}", "slot") is None
    (unit,) = polls.console("perpetual.units()")
    assert (unit["state"], unit["reason"], unit["attempt"]) == ("disabled", "perpetual option enabled=False", 0)


def test_a_poll_by_hand_is_bounded_and_alone(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """A second one hears that the unit is busy, a hanging one times out; its late result is refused."""
    hang = "ledger.record(1, 'begun') or [time.sleep(0.05) for _ in range(60) if not os.path.exists('go')] and [(1,)]"
    polls.proj.write("says", hang)
    with Console(polls.proj) as elsewhere:
        elsewhere.send("perpetual.poll('proj.work')")
        wait_until(polls.proj.rows, "the poll has begun")
        busy = polls.console("perpetual.poll('proj.work')")
        polls.proj.write("go", "")
        assert elsewhere.answer()["status"] == "enqueued"
    assert (busy["status"], busy["gate"], busy["task_ids"]) == ("skipped", "busy", [])
    assert len(polls.console("perpetual.polls('proj.work')")) == 1

    polls.console("setattr(work, 'poll_timeout', 0.5)")
    begun = time.monotonic()
    outcome = polls.poll("time.sleep(1.2) or ledger.record(1, 'late') or [(2,)]")
    assert 0.5 <= time.monotonic() - begun < 0.5 + MOST_LAG
    assert outcome["status"] == "timed_out"
    assert "poll_timeout (0.5 s)" in outcome["reason"]
    wait_until(lambda: polls.proj.rows("late"), "next_batch returned at last")
    assert polls.poll("[]")["status"] == "empty"
    assert statuses(store_redis, "proj.work") == ["enqueued", "timed_out", "empty"]
    assert [m.args for m in queued(store_redis)] == [[1]]


def test_a_poll_whose_process_was_killed_is_abandoned(polls: ScriptedPolls, store_redis: redis.Redis) -> None:
    """Its claim holds the unit until its time is over; then the next poll says so, and everything can be read."""
    polls.console("setattr(work, 'poll_timeout', 0.5)")
    with Console(polls.proj) as elsewhere:
        elsewhere("setattr(work, 'poll_timeout', 0.5)")
        polls.proj.write("says", "ledger.record(1, 'begun') or time.sleep(600)")
        elsewhere.send("perpetual.poll('proj.work')")
        wait_until(polls.proj.rows, "the poll has begun")
        elsewhere.kill9()
    assert polls.poll("[(1,)]")["gate"] == "busy"

    wait_until(lambda: polls.poll("[(1,)]")["status"] == "enqueued", "the claim has expired", timeout=5)

    assert [poll["status"] for poll in polls.console("perpetual.polls('proj.work')")] == ["enqueued", "abandoned"]
    assert [e.data["slot"] for e in poll_events(store_redis)] == [
        poll["slot"] for poll in reversed(polls.console("perpetual.polls('proj.work')"))
    ]
    assert polls.console("perpetual.why('proj.work').polls[-1].status") == "abandoned"


def test_operations_name_the_nearest_to_an_unknown_name(polls: ScriptedPolls) -> None:
    """Operations name what is not there, and the nearest that is."""
    error = polls.console.error
    assert error("perpetual.poll('proj.wrok')").startswith(
        "UnknownTask: task proj.wrok is not registered, did you mean"
    )
    assert "has not both poll_every and next_batch" in error("perpetual.polls(other)")
    assert error("perpetual.why('proj.work', 'acme')").startswith("UnknownUnit: task proj.work has no tenants")
    assert error("perpetual.cursor(3)").startswith("ContractError: task must be the name of a perpetual task")
    assert error("perpetual.pause('nobody')").startswith("UnknownTask")
    assert error("perpetual.resume('nobody')").startswith("UnknownTask")
    assert error("perpetual.resume(everything=True, from_='then')").startswith(
        "ContractError: resume: from_ must be 'now' or 'kept'"
    )
    assert "aware datetime" in error("perpetual.pause(everything=True, until=datetime.datetime(2040, 1, 1))")
    over = "datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)"
    assert "until must be in the future, got 2020-01-01T00:00:00" in error(
        f"perpetual.pause('proj.work', until={over})"
    )


def test_a_broker_that_fails_gets_every_item_once(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Items that were committed while the broker was away are sent when it is back, under their ids, and once."""
    broker = private_redis()
    proj = project(SCRIPTED_POLLS, broker=broker.url)
    with Console(proj) as console:
        polls = ScriptedPolls(proj, console)
        broker.stop()
        outcome = polls.poll("[(1,), (2,), (3,), (4,), (5,)]")
        assert numbers(outcome) == ("enqueued", 5, 0, 0)
        assert polls.poll("[(number,) for number in range(1, 6)]")["gate"] == "max_in_flight"
        broker.start()
        proj.write("says", "[(number,) for number in range(1, 7)]")
        proj.beat("-l", "WARNING")
        with redis.Redis.from_url(broker.url, decode_responses=True) as client:
            wait_until(lambda: client.llen("celery") >= 5, "the batch is sent")
            wait_until(lambda: not proj.redis.zcard("perpetual:outbox"), "nothing is left to send")
            assert [m.id for m in queued(client)] == outcome["task_ids"]
            assert [m.args for m in queued(client)] == [[number] for number in range(1, 6)]
