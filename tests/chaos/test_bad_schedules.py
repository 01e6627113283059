"""Schedules of the user's own that raise, hang, or answer nonsense: they concern their own unit only."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from celery_perpetual.store.keys import Keys
from tests.support import wait_until
from tests.support.console import Console
from tests.support.stream_events import poll_events, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

SOURCE = """
from celery.schedules import crontab

class Raises(crontab):
    def remaining_estimate(self, *args, **options):
        if os.path.exists("armed"):
            raise ValueError("no such day")
        return datetime.timedelta(seconds=1)

class Hangs(crontab):
    def remaining_estimate(self, *args, **options):
        while os.path.exists("armed"):
            time.sleep(0.1)
        return datetime.timedelta(seconds=1)

class Past(crontab):
    def remaining_estimate(self, *args, **options):
        return datetime.timedelta(days=-1)

@app.task(base=PerpetualTask, poll_every=0.25, next_batch=lambda: [Item((1,), key=False)], ignore_result=True)
def good(n): ...

@app.task(base=PerpetualTask, poll_every=Raises(), next_batch=lambda: [])
def raises(): ...

@app.task(base=PerpetualTask, poll_every=Hangs(), next_batch=lambda: [])
def hangs(): ...

@app.task(base=PerpetualTask, poll_every=Past(), next_batch=lambda: [])
def past(): ...
"""


def test_a_schedule_that_raises_or_hangs_stops_no_other_unit(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Its polls fail, with what is wrong as their error; the others keep their pace, and beat stops as it should."""
    proj = project(SOURCE)
    beat = proj.beat().ready()
    for name in ("raises", "hangs", "past"):
        wait_until(lambda name=name: statuses(store_redis, f"proj.{name}"), f"{name} is polled")
    proj.write("armed", "")

    wait_until(lambda: "failed" in statuses(store_redis, "proj.raises"), "a schedule that raises fails its poll", 30)
    wait_until(lambda: "failed" in statuses(store_redis, "proj.hangs"), "a schedule that hangs fails its poll", 30)

    errors = {poll.data["task"]: poll.data["error"] for poll in poll_events(store_redis) if poll.status == "failed"}
    assert "the schedule in poll_every raised ValueError: no such day" in errors["proj.raises"]
    assert "the schedule in poll_every has not answered" in errors["proj.hangs"]
    good = [poll.slot for poll in poll_events(store_redis, "proj.good")]
    assert max(later - earlier for earlier, later in zip(good, good[1:], strict=False)) < 2
    begun = time.monotonic()
    assert beat.terminate()[0] == 0
    assert time.monotonic() - begun < 10


def test_a_unit_whose_keys_are_of_a_wrong_type_stops_no_other(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """The store refuses to claim it; the others are polled."""
    proj = project(
        """
        @app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [Item((1,), key=False)], ignore_result=True)
        def broken(n): ...

        @app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: [Item((1,), key=False)], ignore_result=True)
        def good(n): ...
        """
    )
    proj.beat().ready()
    wait_until(lambda: statuses(store_redis, "proj.broken"), "both are polled")
    key = Keys("perpetual").unit("perpetual:proj.broken")
    pipe = store_redis.pipeline()
    pipe.delete(key)
    pipe.set(key, "of a wrong type")
    pipe.execute()
    before = len(statuses(store_redis, "proj.good"))

    wait_until(lambda: len(statuses(store_redis, "proj.good")) > before + 4, "the other is polled on", 30)
    with Console(proj) as console:
        assert console("perpetual.polls('proj.good')")[0]["status"] == "enqueued"
