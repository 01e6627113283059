"""A routine whose queue has no consumer: it is reported, is never parked, runs once, and goes on with its next slot."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.ladder import QUICK, Beat, steps
from tests.support.routines import World, after
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery


@pytest.fixture
def starving(make_app: Callable[..., Celery], store_redis: redis.Redis) -> World:
    return World(make_app(perpetual_starvation=QUICK), store_redis)


def test_a_routine_whose_queue_has_no_consumer(starving: World, store_redis: redis.Redis) -> None:
    """It climbs the ladder but for its last step: nothing parks a run, and its slot is neither lost nor sent again."""
    world, perpetual = starving, starving.perpetual
    now = world.now()
    made = world.create(
        every=timedelta(hours=1), start_at=after(now, -7_200_000), options={"queue": "nobody"}, id="waits"
    )
    assert made.next_run_at == after(now, -7_200_000)
    (run,) = world.routines.run_due()
    beat = Beat(perpetual)
    wait_until(lambda: beat.once() and events(store_redis, "starvation.starved"), "the run is reported")
    beat.passes(QUICK["park"] + 0.5)

    assert steps(store_redis) == ["notice", "wake", "starved"]
    (said,) = events(store_redis, "starvation.starved")
    assert (said["task_id"], said["task"], said["queue"]) == (run.task_id, "app.work", "nobody")
    assert said["cause"] == "no_consumer"
    assert perpetual.parked() == []
    waiting = world.routines.get("waits")
    assert (waiting.state, waiting.current_run_id, waiting.attempt_count) == ("running", run.task_id, 1)
    assert world.routines.run_due() == []
    assert store_redis.llen("nobody") == 1

    # A worker comes: the run ends, the slots that passed meanwhile are left out, and the next one is on the grid.
    world.ends(run, result=[])
    done = world.routines.get("waits")
    assert (done.state, done.run_count, done.last_run_id) == ("active", 1, run.task_id)
    assert done.next_run_at is not None
    assert done.next_run_at > world.now()
    assert (done.next_run_at - after(now, 0)) % timedelta(hours=1) == timedelta(0)
    wait_until(lambda: not beat.once().starving, "nothing starves any more")


def test_the_way_out_of_a_run_that_no_worker_starts(starving: World) -> None:
    """Cancelled and revoked, its end changes nothing, nor does it change another routine that has its id since."""
    world = starving
    world.create(at=world.now(), options={"queue": "nobody"}, id="stuck")
    (run,) = world.routines.run_due()
    assert world.routines.cancel("stuck", revoke=True).state == "cancelled"
    world.routines.delete("stuck")
    again = world.create(at=world.now(), id="stuck")
    world.ends(run, "revoked")
    assert world.routines.get("stuck") == again
