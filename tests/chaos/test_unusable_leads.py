"""A beat that leads and cannot run the schedule's entries leaves the lead to others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from celery_perpetual.events import LEADER_STEPPED_DOWN
from tests.support import wait_until
from tests.support.beats import ENTRIES, LEADER, SLOTS, leading, wait_for_more
from tests.support.console import Console
from tests.support.stream_events import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

SOURCE = f"{SLOTS}{ENTRIES}\napp.conf.beat_schedule = {{'often': every(0.5)}}\n"


def test_a_leader_without_its_schedule_file_steps_down(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """It takes over and cannot open the file: `check` says so, it polls on, and another beat gets the lead."""
    proj = project(SOURCE, **LEADER)
    first = proj.beat().ready()
    wait_for_more(store_redis, 2, first.pid, "entries")
    unfit = proj.beat("-s", "no/such/folder/schedule").ready()
    first.kill9()
    leading(store_redis, [unfit])

    def troubles() -> list[str]:
        with Console(proj) as console:
            return [each["evidence"] for each in console("perpetual.check()") if "in trouble" in each["evidence"]]

    (trouble,) = wait_until(troubles, "check sees the trouble")
    assert "the base scheduler fails" in trouble
    unfit.wait_for_event(LEADER_STEPPED_DOWN)
    polled = len(statuses(store_redis, "proj.visit"))
    wait_until(lambda: len(statuses(store_redis, "proj.visit")) > polled + 3, "the only beat polls on", 20)

    fit = proj.beat().ready()
    wait_until(lambda: leading(store_redis, [fit, unfit]) is fit, "the other one gets the lead", 40)
    wait_for_more(store_redis, 3, fit.pid, "entries")
    assert unfit.alive
    reasons = [
        json.loads(fields["data"]).get("reason", "")
        for _, fields in store_redis.xrange("perpetual:events")
        if fields["event"] == "leader"
    ]
    assert any("others go first, because the base scheduler fails" in reason for reason in reasons)


def test_entries_that_are_added_at_beat_init_run_in_every_beat_that_leads(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A program adds an entry to the scheduler; the first leader runs it, and so does the standby that takes over."""
    proj = project(
        f"""{SLOTS}{ENTRIES}
from celery.signals import beat_init

@beat_init.connect(weak=False)
def add_entry(sender, **_):
    sender.scheduler.add(name="added", **every(0.5, queue="added"))
""",
        **LEADER,
    )
    first = proj.beat().ready()
    wait_for_more(store_redis, 2, first.pid, "added")
    second = proj.beat("-s", "second").ready()

    first.kill9()

    wait_for_more(store_redis, 3, second.pid, "added")
