"""The store's clock really steps under running processes: an hour ahead and back, then two minutes back."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.support import wait_until
from tests.support.leased_tasks import SETTINGS, TASKS, final_ends, tokens
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support import Project
    from tests.support.stepping import SteppingServer

#: Everything that comes again and again, each under its name in the ledger.
SOURCE = (
    """
def ready():
    if os.path.exists("ahead"):
        raise ConnectionError("not yet")

def polls(name, *, preflight=None, **options):
    def next_batch():
        ledger.record(name, "was there")
        if name == "hinted" and os.path.exists("ahead"):
            error = ConnectionError("not now")
            error.retry_after = 3
            raise error
        return [Item((name,), key="the same")] if name in ("ends", "fails") else []
    app.task(base=PerpetualTask, name=f"proj.{name}", poll_every=1, next_batch=next_batch, preflight=preflight,
             perpetual_options=PerpetualOptions(**options))(body)

def body(name):
    if name == "fails" and os.path.exists("ahead"):
        raise ValueError(name)
    ledger.record(f"body of {name}", "was there")

polls("plain")
polls("first of a source", source_key="one", min_interval=1)
polls("second of a source", source_key="one", min_interval=1)
polls("hinted", source_key="other")
polls("ends")
polls("checked", preflight=ready, preflight_ttl=1)
polls("fails", failed_keys=Retries(backoff=2, max_backoff=2))

@app.task
def entry():
    ledger.record("entry", "was there")

@app.task
def routine(name):
    ledger.record(f"routine {name}", "was there")

app.conf.beat_schedule = {"entry": {"task": "proj.entry", "schedule": 1}}
ITEMS = 2
"""
    + TASKS
)

NAMES = {
    "plain", "checked", "first of a source", "second of a source", "hinted", "ends", "body of ends", "fails", "body of fails", "entry",
    "routine interval", "routine grid",
}  # fmt: skip

CREATE = """
import datetime
from proj import *
second = datetime.timedelta(seconds=1)
perpetual.routines.create("proj.routine", args=["interval"], every=second)
begun = datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc)
perpetual.routines.create("proj.routine", args=["grid"], every=second, start_at=begun)
"""


def seen(proj: Project) -> Counter[str]:
    return Counter(row.id for row in proj.rows("was there"))


def come_again(proj: Project, names: set[str], when: str) -> None:
    """Each of these comes three times more."""
    before = seen(proj)

    def missing() -> dict[str, int]:
        now = seen(proj)
        return {name: now[name] - before[name] for name in names if now[name] - before[name] < 3}

    try:
        wait_until(lambda: not missing(), when, timeout=25)
    except AssertionError:
        pytest.fail(f"{when} these do not come again: {missing()}")


@pytest.mark.long
def test_everything_goes_on_through_steps_of_the_stores_clock(
    project: Callable[..., Project], stepping_redis: SteppingServer
) -> None:
    """Times that were stored while the clock was ahead hold nothing up; a running task keeps its lease, ends once."""
    proj = project(SOURCE, store=stepping_redis.url, **SETTINGS)
    proj.beat().ready()
    proj.worker(pool="threads", concurrency=4).ready()
    proj.run_python(CREATE)
    come_again(proj, NAMES, "at first")

    proj.write("ahead", "")
    stepping_redis.step(3600)
    come_again(proj, NAMES - {"body of fails", "hinted", "checked"}, "an hour ahead")
    (proj.folder / "ahead").unlink()
    stepping_redis.step(0)
    come_again(proj, NAMES, "back again")
    stepping_redis.step(-120)
    come_again(proj, NAMES, "two minutes back")

    proj.write("released", "")
    own = set(tokens(proj, "begin"))
    wait_until(lambda: len(tokens(proj, "end")) == 2, "what ran has ended")
    wait_until(lambda: own <= {task_id for task_id, _ in final_ends(proj)}, "and that is announced")
    assert {task_id: len(several) for task_id, several in tokens(proj, "begin").items()} == dict.fromkeys(own, 1)
    assert {status: final_ends(proj)[task_id, status] for task_id in own for status in ("success",)} == {"success": 1}
    assert [end for end in events(proj.redis, "lease.lost") if end["task_id"] in own] == []
    assert events(proj.redis, "alert.clock_stepped")
