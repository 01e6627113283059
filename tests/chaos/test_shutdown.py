"""SIGTERM ends beat within seconds, in the middle of whatever, and leaves nothing that the next beat must wait for."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_STANDBY, STORE_UNREACHABLE
from tests.support import wait_until
from tests.support.broker import queued
from tests.support.stream_events import poll_events, seconds, statuses

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support import CeleryProcess, Project

# Supervisors give ten seconds and more; three of these are the most that beat waits for a store that is silent.
LONGEST = 5.0

POLLS = """
import socket

def sleep():
    time.sleep(600)

def read():
    here, there = socket.socketpair()
    here.recv(1)

def count():
    number = 0
    while True:
        number += 1

def find(poll):
    ledger.record("poll", poll.trigger)
    if not os.path.exists("released"):
        {"sleep": sleep, "read": read, "count": count, "nothing": lambda: None}[os.environ["POLL"]]()
    return [Item((1,), key=1)]

@app.task(base=PerpetualTask, poll_every=3600, next_batch=find)
def work(number):
    pass

@app.task
def entry():
    pass

app.conf.beat_schedule = {"entry": {"task": "proj.entry", "schedule": 0.2, "options": {"queue": "entries"}}}
"""


def beat_in_a_poll(proj: Project, during: str) -> CeleryProcess:
    """Start a beat and wait until it ticks and is in the middle of a poll."""
    beat = proj.beat(env={"POLL": during}).ready()
    wait_until(lambda: proj.redis.llen("entries"), "beat ticks")
    wait_until(proj.rows, "the poll has begun")
    return beat


def check_end(beat: CeleryProcess) -> None:
    """SIGTERM, the polite end."""
    code, took = beat.terminate()
    assert (code, took < LONGEST) == (0, True), f"exit code {code} after {took:.1f} s"
    assert "Fatal" not in beat.log()


def check_lead_is_free(client: redis.Redis) -> None:
    """The next beat leads without waiting for the end of the lead's time."""
    assert client.get("perpetual:leader") is None
    assert client.get("perpetual:leader:info") is None


@pytest.mark.parametrize("during", ["sleep", "read", "count"])
def test_sigterm_ends_beat_during_a_poll_that_hangs(
    project: Callable[..., Project], store_redis: redis.Redis, during: str
) -> None:
    """A next_batch that does not return does not hold beat up; the next beat polls the unit at once."""
    proj = project(POLLS)
    beat = beat_in_a_poll(proj, during)

    check_end(beat)

    check_lead_is_free(store_redis)
    assert statuses(store_redis, "proj.work") == ["abandoned"]
    proj.write("released", "")
    proj.beat().ready()
    wait_until(lambda: len(statuses(store_redis, "proj.work")) > 1, "the next beat polls")
    abandoned, enqueued = poll_events(store_redis, "proj.work")
    assert enqueued.status == "enqueued"
    assert abandoned.data["reason"] == "the beat that ran this poll was stopped"
    elected = [entry for entry, fields in store_redis.xrange("perpetual:events") if fields["event"] == "leader"][-1]
    assert seconds(enqueued.data["started_at"]) - int(elected.split("-")[0]) / 1000 < 1
    assert [message.args for message in queued(store_redis)] == [[1]]


def test_sigterm_when_idle_or_standing_by(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The standby leaves the lead alone; the leader releases it."""
    proj = project(POLLS)
    leader = proj.beat(env={"POLL": "nothing"}).ready()
    wait_until(lambda: statuses(store_redis, "proj.work") == ["enqueued"], "the poll has ended")
    standby = proj.beat().ready()
    standby.wait_for_event(LEADER_STANDBY)
    lead = store_redis.get("perpetual:leader")

    check_end(standby)
    assert store_redis.get("perpetual:leader") == lead
    check_end(leader)

    check_lead_is_free(store_redis)


def test_a_second_sigterm_during_the_farewell(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """While the store is slow to take the lead back, another SIGTERM spoils nothing."""
    server = private_redis()
    proj = project(POLLS, store=server.url)
    beat = beat_in_a_poll(proj, "sleep")

    begun = time.monotonic()
    os.kill(server.pid, signal.SIGSTOP)
    try:
        beat.signal(signal.SIGTERM)
        # Each for as long as the store stays silent to a farewell that has begun; nothing can be seen of it meanwhile.
        time.sleep(0.3)
        beat.signal(signal.SIGTERM)
        time.sleep(0.3)
    finally:
        os.kill(server.pid, signal.SIGCONT)

    assert beat.wait(LONGEST * 2) == 0
    assert time.monotonic() - begun < LONGEST
    check_lead_is_free(proj.redis)
    assert statuses(proj.redis, "proj.work") == ["abandoned"]


# SIGTERM comes when beat's main thread, in a tick, is about to wake another thread and holds the lock for that.
STRIKE = """
import signal
import sys

def strike(frame, event, argument):
    if event == "call" and frame.f_code.co_name == "notify_all":
        while frame := frame.f_back:
            if frame.f_code.co_name == "tick":
                sys.setprofile(None)
                ledger.record("beat", "struck")
                os.kill(os.getpid(), signal.SIGTERM)

sys.setprofile(strike)
"""


def test_sigterm_while_a_tick_wakes_a_thread(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The farewell, in a signal handler, takes no lock that the interrupted tick holds."""
    proj = project(POLLS + STRIKE)
    beat = proj.beat(env={"POLL": "nothing"})
    wait_until(lambda: proj.rows("struck") or store_redis.llen("entries") >= 3, "the signal has come, or never will")

    if not proj.rows("struck"):
        beat.signal(signal.SIGTERM)
    assert beat.wait(LONGEST) == 0

    check_lead_is_free(store_redis)


def test_sigterm_at_the_moment_of_the_election(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """A beat that has the lead, and is still setting up, gives it back."""
    proj = project(POLLS)
    beat = proj.beat(env={"POLL": "count"})
    wait_until(lambda: store_redis.get("perpetual:leader"), "beat is elected", interval=0.001)

    check_end(beat)

    check_lead_is_free(store_redis)


def test_sigterm_while_a_large_batch_is_published(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """Messages that were committed and not yet published are published by the next beat, each once."""
    proj = project(
        """
        def find():
            return [(number,) for number in range(10_000)]

        @app.task(base=PerpetualTask, poll_every=3600, next_batch=find, max_in_flight=10_000)
        def work(number):
            pass
        """
    )
    beat = proj.beat()
    wait_until(lambda: store_redis.llen("celery"), "the first messages are there", interval=0.001)

    check_end(beat)

    there = store_redis.llen("celery")
    assert there < 10_000, "the batch was published before the signal"
    check_lead_is_free(store_redis)
    proj.beat().ready()
    wait_until(lambda: store_redis.llen("celery") >= 10_000, "the rest is published")
    wait_until(lambda: store_redis.zcard("perpetual:outbox") == 0, "nothing is left to publish")
    assert sorted(message.args[0] for message in queued(store_redis)) == list(range(10_000))
    assert statuses(store_redis, "proj.work") == ["enqueued"]


def test_sigterm_while_the_store_is_frozen(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Store and broker do not answer: beat ends all the same, and its lead by itself."""
    server = private_redis()
    proj = project(POLLS, store=server.url, perpetual_leader_ttl=5)
    beat = proj.beat(env={"POLL": "nothing"}).ready()
    wait_until(lambda: proj.redis.llen("entries") >= 2, "beat's own entry is sent")
    os.kill(server.pid, signal.SIGSTOP)
    try:
        # More than the 0.2 s between two calls to the broker, so that beat is in the middle of one.
        time.sleep(0.5)
        check_end(beat)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    wait_until(lambda: proj.redis.get("perpetual:leader") is None, "the lead has ended", timeout=6)


def test_sigterm_while_the_store_is_gone(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Store and broker refuse connections in the middle of a poll."""
    server = private_redis()
    proj = project(POLLS, store=server.url)
    beat = beat_in_a_poll(proj, "sleep")
    server.stop()
    beat.wait_for_event(STORE_UNREACHABLE)

    check_end(beat)


def test_sigterm_before_the_first_contact(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """A beat that waits for its store at start ends as fast as any other."""
    server = private_redis()
    proj = project(POLLS, store=server.url)
    server.stop()
    beat = proj.beat().ready()

    check_end(beat)


#: Asked to end once, in a place where Python drops what a signal handler raises.
DROPS = """
import signal

class Dropping:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)

if "DROPS" in os.environ:
    signal.signal(signal.SIGALRM, lambda *_: Dropping() and None)
    signal.setitimer(signal.ITIMER_REAL, 3)
"""


@pytest.mark.parametrize("contact", [True, False], ids=["at work", "before the first contact"])
def test_sigterm_in_a_destructor_ends_beat(
    project: Callable[..., Project], private_redis: Callable[..., EmbeddedServer], contact: bool
) -> None:
    """The SystemExit of Celery's handler is lost there; beat ends all the same."""
    server = private_redis()
    proj = project(POLLS + DROPS, store=server.url)
    if not contact:
        server.stop()
    beat = proj.beat(env={"DROPS": "1", "POLL": "nothing"}).ready()

    assert beat.wait(3 + LONGEST + 5) == 0
    assert "Exception ignored in" in beat.log()
