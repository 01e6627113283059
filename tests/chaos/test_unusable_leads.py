"""A beat that leads and cannot run the schedule's entries leaves the lead to others."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import BASE_SYNC_FAILED, LEADER_STEPPED_DOWN, PUBLISH_FAILED
from tests.support import wait_until
from tests.support.beats import ENTRIES, LEADER, SLOTS, leading, wait_for_more
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.proxy import Proxy
from tests.support.stream_events import statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual.embedded import EmbeddedServer
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


#: One beat may reach the broker by another way than the rest. A tick counts as hanging early.
WAYS = """
app.conf.broker_url = os.environ.get("BROKER", app.conf.broker_url)

from celery.beat import PersistentScheduler
from celery_perpetual.beat import lead_health

lead_health.LONGEST_TICK = 2.0

class Hangs(PersistentScheduler):
    def tick(self, *args, **kwargs):
        while os.path.exists(f"hang {os.getpid()}"):
            time.sleep(0.1)
        return super().tick(*args, **kwargs)

app.conf.perpetual_base_scheduler = "proj:Hangs"
"""


def test_a_leader_that_cannot_reach_its_broker_or_hangs_steps_down(
    project: Callable[..., Project],
    redis_url: str,
    store_redis: redis.Redis,
    private_redis: Callable[..., EmbeddedServer],
) -> None:
    """The broker is out of reach for the leader alone; later a tick of the other beat does not return."""
    private = private_redis()
    with Proxy(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proj = project(
            f"{SOURCE}{WAYS}", broker=redis_url, store=private.url, broker_connection_max_retries=1,
            task_publish_retry=False, **LEADER,
        )  # fmt: skip
        cut_off = proj.beat(env={"BROKER": f"redis://127.0.0.1:{proxy.port}/0"}).ready()
        wait_for_more(store_redis, 2, cut_off.pid, "entries")
        other = proj.beat().ready()

        proxy.cut()
        stepped = cut_off.wait_for_event(LEADER_STEPPED_DOWN)
        assert "cannot be sent" in stepped["reason"] or "fails" in stepped["reason"]
        wait_until(lambda: leading(proj.redis, [cut_off, other]) is other, "the other one gets the lead")
        wait_for_more(store_redis, 2, other.pid, "entries")

        proxy.mend()
        proj.write(f"hang {other.pid}", "")
        assert "has not returned" in other.wait_for_event(LEADER_STEPPED_DOWN)["reason"]
        wait_until(lambda: leading(proj.redis, [cut_off, other]) is cut_off, "the first one leads again")
        wait_for_more(store_redis, 2, cut_off.pid, "entries")
        (proj.folder / f"hang {other.pid}").unlink()
    assert cut_off.alive
    assert other.alive


def test_a_full_disk_ends_no_beat(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The runs of entries cannot be stored in the schedule's file: entries and polls go on, and `check` says so."""
    proj = project(
        f"""{SOURCE}
from celery.beat import PersistentScheduler

class Full(PersistentScheduler):
    sync_every = 0.5

    def sync(self):
        if os.path.exists("full"):
            raise OSError(28, "No space left on device")
        super().sync()

app.conf.perpetual_base_scheduler = "proj:Full"
""",
        **LEADER,
    )
    beat = proj.beat().ready()
    wait_for_more(store_redis, 1, beat.pid, "entries")

    proj.write("full", "")
    beat.wait_for_event(BASE_SYNC_FAILED, count=3)
    wait_for_more(store_redis, 2, beat.pid, "entries")
    wait_for_more(store_redis, 2, beat.pid)
    with Console(proj) as console:
        wait_until(
            lambda: any("cannot be stored" in each["evidence"] for each in console("perpetual.check()")),
            "check says so",
        )
    assert not beat.events(LEADER_STEPPED_DOWN)
    assert beat.terminate()[0] == 0


@pytest.mark.parametrize(
    "way", ["redis://nobody:wrong@{broker}", pytest.param("redis://nowhere.invalid", marks=pytest.mark.matrix)]
)
def test_a_leader_that_cannot_publish_batches_steps_down(
    way: str, project: Callable[..., Project], redis_url: str, store_redis: redis.Redis,
    private_redis: Callable[..., EmbeddedServer],
) -> None:  # fmt: skip
    """Its login is wrong, or it cannot resolve the broker's name: alone it polls on, and a second beat sends it all."""
    private = private_redis()
    proj = project(f"{SLOTS}{WAYS}", broker=redis_url, store=private.url, task_publish_retry=False, **LEADER)
    unfit = proj.beat(env={"BROKER": way.format(broker=redis_url.removeprefix("redis://"))}).ready()
    unfit.wait_for_event(PUBLISH_FAILED, count=20)
    assert leading(proj.redis, [unfit]) is unfit

    fit = proj.beat().ready()

    assert "batches cannot be published" in unfit.wait_for_event(LEADER_STEPPED_DOWN)["reason"]
    wait_until(lambda: leading(proj.redis, [fit, unfit]) is fit, "the other one gets the lead")
    wait_until(lambda: not proj.redis.zcard("perpetual:outbox"), "it has published what was left")
    ids = [message.id for message in queued(store_redis)]
    assert len(ids) == len(set(ids)) > 20
    assert unfit.alive


def test_a_leader_whose_clock_hangs_steps_down(project: Callable[..., Project]) -> None:
    """A sink of reports, the project's own, does not return to the clock: polls and their lead go to another beat."""
    proj = project(
        f"""{SLOTS}{WAYS}
import threading
from celery_perpetual import telemetry

def sink(event):
    while os.path.exists(f"mute {{os.getpid()}}") and threading.current_thread().name == "perpetual-clock":
        time.sleep(0.1)

telemetry.sinks.append(sink)

@app.task(base=PerpetualTask, poll_every=0.5, next_batch=lambda: None)
def broken(): ...
""",
        **LEADER,
    )
    muted = proj.beat().ready()
    wait_until(lambda: statuses(proj.redis, "proj.broken"), "it polls")
    other = proj.beat().ready()
    proj.write(f"mute {muted.pid}", "")
    proj.redis.set("perpetual:u:perpetual:proj.broken", "no hash: that is reported")

    assert "turn of the clock" in muted.wait_for_event(LEADER_STEPPED_DOWN)["reason"]

    wait_until(lambda: leading(proj.redis, [muted, other]) is other, "the other one gets the lead")
    polled = len(statuses(proj.redis, "proj.visit"))
    wait_until(lambda: len(statuses(proj.redis, "proj.visit")) > polled + 3, "it polls")
    assert muted.alive


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
