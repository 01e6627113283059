"""The beat_schedule belongs to the leader: its entries are sent by one beat, and not again after a take-over."""

from __future__ import annotations

from itertools import pairwise
from textwrap import dedent
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_STANDBY
from tests.support import wait_until
from tests.support.beats import ENTRIES, LEADER, MACHINE, leading, wait_for_more
from tests.support.django_site import DjangoSite
from tests.support.stream_events import events, leader

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import CeleryProcess, Project

OTHERS = ("perpetual_django", "perpetual_redbeat")

#: The entry in question, and one that shows that a beat is at work.
RARE = 'app.conf.beat_schedule = {{"rare": every({seconds}), "often": every(0.2, "often")}}'


def leader_and_standby(proj: Project, file: str) -> tuple[CeleryProcess, CeleryProcess]:
    """A leader that has sent entries, and a standby whose schedule file is an old one or the leader's own."""
    arguments = ["-s", "celerybeat-schedule"] if file == "shared" else []
    # Leads for a moment, so that its file says that the entry last ran a long time ago.
    old = proj.beat(*arguments, name="second")
    leading(proj.redis, [old])
    wait_for_more(proj.redis, 1, old.pid, "often")
    old.terminate()
    first = proj.beat(*arguments, name="first")
    leading(proj.redis, [first])
    second = proj.beat(*arguments, name="second")
    second.wait_for_event(LEADER_STANDBY)
    return first, second


def test_a_standby_sends_no_entries_until_it_leads(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The beat_schedule belongs to the leader; after its death the standby sends the entries."""
    proj = project(ENTRIES + 'app.conf.beat_schedule = {"often": every(0.5)}', **LEADER)
    first = proj.beat()
    leading(store_redis, [first])
    second = proj.beat()
    second.wait_for_event(LEADER_STANDBY)
    messages = wait_for_more(store_redis, 4, first.pid, "entries")
    assert {message.pid for message in messages} == {first.pid}

    first.kill9()

    messages = wait_for_more(store_redis, 3, second.pid, "entries")
    assert [message.pid for message in messages] == sorted((m.pid for m in messages), key=[first.pid, second.pid].index)


@pytest.mark.parametrize("file", ["own", "shared"])
def test_an_entry_just_sent_is_not_sent_again_after_a_clean_take_over(
    project: Callable[..., Project], store_redis: redis.Redis, file: str
) -> None:
    """A standby knows what a stopped leader has just sent, be its schedule file old or the very same."""
    proj = project(ENTRIES + RARE.format(seconds=3), **LEADER)
    first, second = leader_and_standby(proj, file)
    # Twice: the first may be in the store by now, the second is only a moment old.
    wait_for_more(store_redis, 2, first.pid, "entries")

    assert first.terminate()[0] == 0

    times = [message.kwargs["at"] for message in wait_for_more(store_redis, 1, second.pid, "entries")]
    # Celery looks at its clock a little early.
    assert min(later - earlier for earlier, later in pairwise(times)) > 2.5, times
    assert max(later - earlier for earlier, later in pairwise(times)) < 3 + 1 + MACHINE, times
    assert "Removing corrupted schedule file" not in second.log()


@pytest.mark.parametrize("file", ["own", "shared"])
def test_an_entry_that_a_killed_leader_sent_is_not_sent_again(
    project: Callable[..., Project], store_redis: redis.Redis, file: str
) -> None:
    """A standby with an old schedule file, or the killed one's, goes by the last run that the store remembers."""
    proj = project(ENTRIES + RARE.format(seconds=5), **LEADER)
    first, second = leader_and_standby(proj, file)
    ran = wait_for_more(store_redis, 1, first.pid, "entries")[-1].kwargs["at"]

    first.kill9()

    messages = wait_for_more(store_redis, 1, second.pid, "entries")
    sent = next(message.kwargs["at"] for message in messages if message.pid == second.pid)
    assert 4.5 < sent - ran < 5 + 1 + MACHINE


@pytest.mark.parametrize("base", ["perpetual", *(pytest.param(name, marks=pytest.mark.long) for name in OTHERS)])
def test_a_beat_inside_of_a_worker_leads_and_polls(
    project: Callable[..., Project], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch, base: str
) -> None:
    """`celery worker -B` polls, runs what it found, sends entries, and gives up the lead when it is stopped."""
    source = """
    def slots(poll):
        return [Item(args=(poll.slot.isoformat(),))]

    @app.task(base=PerpetualTask, poll_every=0.25, next_batch=slots)
    def visit(slot):
        ledger.record(slot)

    @app.task
    def sent():
        ledger.record("", "entry")

    app.conf.redbeat_redis_url = app.conf.broker_url
    app.conf.beat_schedule = {"often": {"task": "proj.sent", "schedule": 0.5}}
    """
    if base == "perpetual_django":
        with DjangoSite(project, monkeypatch, dedent(source), **LEADER) as site:
            proj = site.proj
    else:
        proj = project(source, **LEADER)
    worker = proj.worker("-B", "-s", str(proj.folder / "schedule"), "--scheduler", base)

    wait_until(lambda: len(proj.rows("ran")) >= 4 and proj.rows("entry"), "items and entries ran")

    held = leader(store_redis)
    assert held is not None
    assert held[0] in worker.children()
    slots = [row.id for row in proj.rows("ran")]
    assert len(set(slots)) == len(slots)
    assert worker.terminate()[0] == 0
    assert [event["change"] for event in events(store_redis, "leader")] == ["elected", "resigned"]
