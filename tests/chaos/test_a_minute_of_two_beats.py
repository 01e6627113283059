"""A minute of two beats over each base scheduler: the leader is frozen, woken later, and then the other one is killed."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_LOST, LEADER_STANDBY
from tests.support import wait_until
from tests.support.beats import LEADER, MACHINE, TTL, leading
from tests.support.broker import queued
from tests.support.console import Console
from tests.support.django_site import DjangoSite

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project

#: Entries say when they were sent; perpetual task and routine note their slots when they run.
SOURCE = """
@signals.before_task_publish.connect(weak=False)
def note_time(headers=None, **_):
    headers["sent_at"] = time.time()

@app.task
def entry(): ...

def slots(poll):
    return [Item(args=(poll.slot.isoformat(),))]

@app.task(base=PerpetualTask, poll_every=1, next_batch=slots)
def visit(slot):
    ledger.record(datetime.datetime.fromisoformat(slot).timestamp(), "poll")

@app.task
def work():
    ledger.record(perpetual.slot().timestamp(), "routine")

app.conf.redbeat_redis_url = app.conf.broker_url
if "BASE" not in os.environ:
    app.conf.beat_schedule = {
        name: {"task": "proj.entry", "schedule": 1, "options": {"queue": name}} for name in "abc"
    }
"""
NAMES = "abc"
#: Most that may be missing where the lead changes: the lost leader's term, a tick, and the entry's own second.
TAKE_OVER = TTL + 1 + 1 + MACHINE


def written(base: str, project: Callable[..., Project], monkeypatch: pytest.MonkeyPatch) -> Project:
    if base != "perpetual_django":
        return project(SOURCE, **LEADER)
    monkeypatch.setenv("BASE", base)
    with DjangoSite(project, monkeypatch, SOURCE, **LEADER) as site:
        for name in NAMES:
            site.run(f"row({name!r}, interval=interval(1))")
        return site.proj


def sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.time()))


@pytest.mark.long
@pytest.mark.timeout(240)
@pytest.mark.parametrize("base", ["perpetual", "perpetual_django", "perpetual_redbeat"])
def test_two_beats_start_every_slot_of_a_minute_once(
    project: Callable[..., Project], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """Entries, polls and runs of a routine come once a slot, and none is missing beyond the take-overs."""
    proj = written(base, project, monkeypatch)
    proj.worker(pool="threads").ready()
    first = proj.beat("-S", base)
    leading(store_redis, [first])
    second = proj.beat("-S", base)
    second.wait_for_event(LEADER_STANDBY)
    with Console(proj) as console:
        routine = console("perpetual.routines.create('proj.work', every=1, catch_up=True).id")
    wait_until(lambda: all(queued(store_redis, name) for name in NAMES), "entries are sent")
    begun = time.time()

    sleep_until(begun + 15)
    first.stop_signal()
    frozen = time.time()
    leading(store_redis, [second])
    sleep_until(begun + 30)
    first.cont()
    woken = time.time()
    first.wait_for_event(LEADER_LOST)
    sleep_until(begun + 45)
    second.kill9()
    killed = time.time()
    leading(store_redis, [first])
    sleep_until(begun + 62)
    ended = time.time()
    assert first.terminate()[0] == 0

    for name in NAMES:
        sent = [message.headers["sent_at"] for message in queued(store_redis, name)]
        gaps = [later - earlier for earlier, later in pairwise(sent)]
        assert min(gaps) > 0.8, (name, gaps)
        assert max(gaps) < TAKE_OVER, (name, gaps)
        late = [earlier for earlier, later in pairwise(sent) if later - earlier > 1 + MACHINE]
        assert all(min(abs(at - frozen), abs(at - killed)) < 1 + MACHINE for at in late), (name, late, frozen, killed)
        assert len(sent) >= ended - begun - 2 * TAKE_OVER
        of_first = [m.headers["sent_at"] for m in queued(store_redis, name) if m.pid == first.pid]
        assert not [at for at in of_first if woken - 1 < at < killed]
    assert_a_grid(proj, "poll", 2 * TAKE_OVER)
    # Missed slots are caught up.
    assert_a_grid(proj, "routine", 0)
    with Console(proj) as console:
        assert console(f"perpetual.routines.get({routine!r}).state") in ("active", "running")


def assert_a_grid(proj: Project, what: str, missing: float) -> None:
    """Each slot once, a second apart, and so many of a minute may be missing."""
    slots = [float(row.id) for row in proj.rows(what)]
    assert [slot for slot, times in Counter(slots).items() if times > 1] == []
    steps = [round(slot - min(slots)) for slot in sorted(slots)]
    assert [slot - min(slots) for slot in sorted(slots)] == pytest.approx(steps, abs=0.002)
    assert steps[-1] >= 58
    assert steps[-1] + 1 - len(steps) <= missing, (what, steps)
