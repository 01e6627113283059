"""Polls that hang: none is started twice, and they delay no other unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support import wait_until
from tests.support.broker import queued
from tests.support.cadence import GOOD, check_cadence
from tests.support.console import Console
from tests.support.stream_events import poll_events, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


HANGING = """
def until_released(poll):
    ledger.record(poll.task, "called")
    while not os.path.exists("released"):
        time.sleep(0.05)
    ledger.record(poll.task, "returns")
    return [Item((poll.poll_id,), key="late", queue="late")]

def hangs(poll_id):
    pass

for number in range(COUNT):
    app.task(
        base=PerpetualTask, poll_every=1, poll_timeout=TIMEOUT, next_batch=until_released, name=f"proj.hangs{number}"
    )(hangs)
"""


def test_a_hanging_poll_is_not_started_twice_and_its_result_is_refused(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """The unit is skipped until next_batch has returned; what that brings at last is dropped; then it is polled."""
    proj = project(GOOD + "COUNT, TIMEOUT = 1, 1" + HANGING)
    beat = proj.beat().ready()
    wait_until(lambda: statuses(store_redis, "proj.hangs0") == ["timed_out"], "the poll timed out")
    with Console(proj) as console:
        assert console("perpetual.pause('proj.hangs0')")
        # Passes over the back-off.
        assert console("perpetual.resume('proj.hangs0')") is True
        wait_until(lambda: statuses(store_redis, "proj.hangs0").count("skipped") >= 2, "the unit is skipped")
        skipped = console("perpetual.polls('proj.hangs0', limit=1)")[0]
        assert skipped["gate"] == "hanging"
        assert poll_events(store_redis, "proj.hangs0")[0].data["poll_id"] in skipped["reason"]
        assert skipped["repeated"] >= 2
        assert [row.what for row in proj.rows()] == ["called"]

        proj.write("released", "")
        wait_until(lambda: store_redis.llen("late"), "the unit is polled again")

        (message,) = queued(store_redis, "late")
        enqueued = next(poll for poll in poll_events(store_redis, "proj.hangs0") if poll.status == "enqueued")
        assert message.args == [enqueued.data["poll_id"]]
        assert [row.what for row in proj.rows()][:4] == ["called", "returns", "called", "returns"]
        wait_until(lambda: len(proj.rows()) > 4, "the next poll")
        assert store_redis.llen("late") == 1
    assert "enqueued" not in statuses(store_redis, "proj.hangs0")[:2]
    check_cadence(beat, store_redis)


def test_more_hanging_polls_than_threads_delay_nobody_else(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Three units that hang and two threads for polls: the good unit stays on time, before and after they time out."""
    proj = project(GOOD + "COUNT, TIMEOUT = 3, 4" + HANGING, perpetual_poll_threads=2)
    beat = proj.beat().ready()

    wait_until(
        lambda: sum(poll.status == "timed_out" for poll in poll_events(store_redis)) == 3, "all of them timed out"
    )
    wait_until(lambda: store_redis.llen("good") >= 6, "the good unit has been polled for some seconds")

    check_cadence(beat, store_redis)
