"""Beats as processes of their own: one leads, whatever is done to them; judged from the broker's queues."""

from __future__ import annotations

import time
from collections import Counter
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support import wait_until
from tests.support.broker import Message, queued
from tests.support.outside import events, leader

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis

    from tests.support import CeleryProcess, Project

TTL = 3
#: What two busy cores may add to a promised time.
MACHINE = 1.5
EVERY = 0.25
LEADER = {"perpetual_leader_ttl": TTL}

SLOTS = """
def slots(poll):
    return [Item(args=(poll.slot.isoformat(),))]

@app.task(base=PerpetualTask, poll_every=0.25, next_batch=slots)
def visit(slot): ...
"""

#: Ordinary entries beside it, in a queue of their own; each message says when it was sent.
ENTRIES = """
from celery.beat import BeatLazyFunc

@app.task
def entry(at): ...

def every(seconds, queue="entries"):
    options = {"queue": queue}
    return {"task": "proj.entry", "schedule": seconds, "kwargs": {"at": BeatLazyFunc(time.time)}, "options": options}
"""

#: The entry in question, and one that tells that a beat is at work.
RARE = 'app.conf.beat_schedule = {{"rare": every({seconds}), "often": every(0.2, "often")}}'


def leading(store_redis: redis.Redis, beats: Sequence[CeleryProcess], timeout: float = 30) -> CeleryProcess:
    """Wait until one of these beats leads."""
    by_pid = {beat.pid: beat for beat in beats}

    def found() -> CeleryProcess | None:
        held = leader(store_redis)
        return by_pid.get(held[0]) if held else None

    beat = wait_until(found, f"one of the beats {sorted(by_pid)} leads", timeout)
    assert beat is not None
    return beat


def wait_for_more(store_redis: redis.Redis, number: int, pid: int, queue: str = "celery") -> list[Message]:
    """Wait until this process has sent so many further messages; return all of the queue."""

    def sent() -> int:
        return sum(message.pid == pid for message in queued(store_redis, queue))

    wanted = sent() + number
    wait_until(lambda: sent() >= wanted, f"process {pid} sends {number} more messages to {queue}", timeout=30)
    return queued(store_redis, queue)


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
    second.wait_for_log("standing by")
    return first, second


def slot_of(message: Message) -> float:
    return datetime.fromisoformat(message.args[0]).timestamp()


def is_stopped(beat: CeleryProcess) -> bool:
    return psutil.Process(beat.pid).status() == psutil.STATUS_STOPPED


def test_each_slot_has_one_batch_while_leaders_are_killed_and_frozen(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Over 60 slots, one leader killed and one frozen, no slot is polled twice and none waits longer than a term."""
    proj = project(SLOTS, **LEADER)
    beats = [proj.beat() for _ in range(3)]
    killed = leading(store_redis, beats)
    terms = [leader(store_redis)]
    for standby in [beat for beat in beats if beat is not killed]:
        standby.wait_for_log("standing by")
    wait_for_more(store_redis, 10, killed.pid)

    killed.kill9()
    beats.remove(killed)
    frozen = leading(store_redis, beats)
    terms.append(leader(store_redis))
    wait_for_more(store_redis, 10, frozen.pid)

    frozen.stop_signal()
    wait_until(lambda: is_stopped(frozen), "the leader is frozen")
    frozen_at = time.time()
    last = next(beat for beat in beats if beat is not frozen)
    leading(store_redis, [last])
    terms.append(leader(store_redis))
    wait_for_more(store_redis, 10, last.pid)
    frozen.cont()
    frozen.wait_for_log("lost the lead")
    start = slot_of(queued(store_redis)[0])
    wait_until(lambda: slot_of(queued(store_redis)[-1]) >= start + 64 * EVERY, "64 slots are over")
    # In this order, as the woken one would follow the last.
    assert frozen.terminate()[0] == 0
    assert last.terminate()[0] == 0
    messages = queued(store_redis)

    slots = [slot_of(message) for message in messages]
    assert [slot for slot, times in Counter(slots).items() if times > 1] == []
    assert slots == sorted(slots)
    grid = [(slot - start) / EVERY for slot in slots]
    assert grid == pytest.approx([round(number) for number in grid])
    gaps = [later.claimed - earlier.claimed for earlier, later in pairwise(messages)]
    assert max(gaps) < TTL + 1 + MACHINE, gaps
    # What the woken one claimed or tried to claim after its term counted for nothing.
    assert max(message.claimed for message in messages if message.pid == frozen.pid) <= frozen_at
    polls = events(store_redis, "poll")
    assert sum(poll["count"] for poll in polls) == len(messages)
    assert len({poll["slot"] for poll in polls}) == len(polls)
    assert [(held[0], held[1]) for held in terms if held] == [
        (int(event["owner"].split("/")[1]), event["term"])
        for event in events(store_redis, "leader")[:3]
        if event["change"] == "elected"
    ]


def test_a_batch_of_a_leader_that_froze_in_its_poll_is_refused(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A leader frozen inside next_batch and woken a term later brings its batch in vain."""
    source = """
    import pathlib, signal, threading

    def slots(poll):
        try:
            pathlib.Path(f"freeze-{os.getpid()}").unlink()
        except FileNotFoundError:
            return [Item(args=(poll.slot.isoformat(),))]
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
        return [Item(args=(poll.slot.isoformat(),)), Item(args=("woken",))]

    @app.task(base=PerpetualTask, poll_every=0.25, next_batch=slots)
    def visit(slot): ...
    """
    proj = project(source, **LEADER)
    frozen = proj.beat(name="frozen")
    leading(store_redis, [frozen])
    other = proj.beat(name="other")
    other.wait_for_log("standing by")
    proj.write(f"freeze-{frozen.pid}", "")
    wait_until(lambda: is_stopped(frozen), "the leader is frozen in its poll")
    claimed = store_redis.hget("perpetual:u:perpetual:proj.visit", "claim")

    leading(store_redis, [other])
    wait_for_more(store_redis, 2, other.pid)
    frozen.cont()

    frozen.wait_for_log("was refused, its claim is lost")
    messages = wait_for_more(store_redis, 2, other.pid)
    assert "woken" not in [message.args[0] for message in messages]
    assert max(Counter(slot_of(message) for message in messages).values()) == 1
    assert [poll["status"] for poll in events(store_redis, "poll") if poll["poll_id"] == claimed] in (
        ["superseded"],
        ["abandoned"],
    )
    assert not store_redis.exists(f"perpetual:p:{claimed}")


def test_a_claim_of_a_leader_that_froze_before_it_is_refused(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A leader frozen between finding a unit due and claiming it cannot take it from its successor when it wakes."""
    # A schedule of the user's is asked for its next match at just that place.
    source = """
    import pathlib, signal, threading
    from celery.schedules import schedule

    class WholeSeconds(schedule):
        def remaining_estimate(self, last_run_at):
            try:
                pathlib.Path(f"freeze-{os.getpid()}").unlink()
            except FileNotFoundError:
                pass
            else:
                signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)
            return datetime.timedelta(microseconds=1_000_000 - last_run_at.microsecond)

        def __repr__(self):
            return "whole seconds"

    def slots(poll):
        while os.path.exists("hold"):
            time.sleep(0.01)
        return [Item(args=(poll.slot.isoformat(), poll.poll_id))]

    @app.task(base=PerpetualTask, poll_every=WholeSeconds(1), next_batch=slots)
    def visit(slot, poll): ...
    """
    unit = "perpetual:u:perpetual:proj.visit"
    proj = project(source, **LEADER)
    frozen = proj.beat(name="frozen")
    leading(store_redis, [frozen])
    wait_for_more(store_redis, 1, frozen.pid)
    other = proj.beat(name="other")
    other.wait_for_log("standing by")
    proj.write(f"freeze-{frozen.pid}", "")
    wait_until(lambda: is_stopped(frozen), "the leader is frozen before its claim")
    hold = proj.write("hold", "")
    due = store_redis.zscore("perpetual:due", "perpetual:proj.visit")
    assert due is not None
    assert slot_of(queued(store_redis)[-1]) < due / 1000

    leading(store_redis, [other])
    term = leader(store_redis)
    # Its own claim of just that slot stays open while the frozen one wakes.
    wait_until(lambda: store_redis.hget(unit, "claim_slot") == f"{due:.0f}", "the successor polls that slot")
    claim = store_redis.hget(unit, "claim")
    frozen.cont()
    # It tries to claim at once and leaves no trace of that: the stretch in which nothing may happen to the claim.
    time.sleep(1)
    assert store_redis.hget(unit, "claim") == claim
    hold.unlink()

    messages = wait_for_more(store_redis, 2, other.pid)
    assert leader(store_redis) == term
    assert max(Counter(slot_of(message) for message in messages).values()) == 1
    assert {message.pid for message in messages if slot_of(message) >= due / 1000} == {other.pid}
    assert claim in {message.args[1] for message in messages}
    assert {poll["status"] for poll in events(store_redis, "poll")} == {"enqueued"}


def test_a_stopped_leader_is_followed_within_a_second(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """SIGTERM ends a leader with 0 within five seconds, and a second later the standby has polled; terms only grow."""
    proj = project(SLOTS, **LEADER)
    beats = [proj.beat() for _ in range(2)]
    first = leading(store_redis, beats)
    second = next(beat for beat in beats if beat is not first)
    second.wait_for_log("standing by")
    wait_for_more(store_redis, 4, first.pid)

    code, seconds = first.terminate()
    ended = time.time()

    assert code == 0
    assert seconds < 5
    messages = wait_for_more(store_redis, 4, second.pid)
    assert min(m.claimed for m in messages if m.pid == second.pid) < ended + 1
    assert max(m.claimed for m in messages if m.pid == first.pid) <= ended
    assert [event["change"] for event in events(store_redis, "leader")] == ["elected", "resigned", "elected"]

    # A fail-over of the store may lose the last term; the next one is greater nonetheless.
    store_redis.delete("perpetual:term")
    second.terminate()
    leading(store_redis, [proj.beat()])
    terms = [event["term"] for event in events(store_redis, "leader") if event["change"] == "elected"]
    assert len(terms) == 3
    assert terms == sorted(set(terms))
    assert leader(store_redis) is not None
    assert terms[-1] == int(str(store_redis.get("perpetual:term")))


def test_a_poll_in_progress_does_not_hold_up_the_stop_of_a_leader(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A leader stopped in the middle of a long poll ends in time, and the standby polls that unit anew at once."""
    source = """
    def slow(poll):
        ledger.record(poll.poll_id, "called")
        if "SLOW" in os.environ:
            time.sleep(60)
        return [Item(args=(1,))]

    @app.task(base=PerpetualTask, poll_every=3600, next_batch=slow)
    def visit(number): ...
    """
    proj = project(source, **LEADER)
    slow = proj.beat(env={"SLOW": "1"})
    wait_until(lambda: proj.rows("called"), "next_batch is called")
    standby = proj.beat()
    standby.wait_for_log("standing by")

    code, seconds = slow.terminate()
    ended = time.time()

    assert code == 0
    assert seconds < 5
    (message,) = wait_until(lambda: queued(store_redis), "the standby polls")
    assert message.pid == standby.pid
    assert message.claimed < ended + 1
    assert [poll["status"] for poll in events(store_redis, "poll")] == ["abandoned", "enqueued"]


def test_a_standby_sends_no_entries_until_it_leads(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """The beat_schedule belongs to the leader; after its death the standby sends the entries."""
    proj = project(ENTRIES + 'app.conf.beat_schedule = {"often": every(0.5)}', **LEADER)
    first = proj.beat()
    leading(store_redis, [first])
    second = proj.beat()
    second.wait_for_log("standing by")
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

    def stored() -> bool:
        # Celery's own clock is read a moment after the message is made.
        return float(str(store_redis.hget("perpetual:base", "rare") or 0)) >= ran

    # A moment later than the message: a leader that dies in between leaves the entry to be sent again.
    wait_until(stored, "the last run is in the store", timeout=5)

    first.kill9()

    messages = wait_for_more(store_redis, 1, second.pid, "entries")
    sent = next(message.kwargs["at"] for message in messages if message.pid == second.pid)
    assert 4.5 < sent - ran < 5 + 1 + MACHINE


def test_another_app_on_the_same_prefix_refuses_to_start(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """A beat of another app ends with an error that names both apps, and with a prefix of its own it starts."""
    proj = project(SLOTS, **LEADER)
    ours = proj.beat()
    leading(store_redis, [ours])
    theirs = project(SLOTS, name="intruder", **LEADER).beat(name="theirs")

    assert theirs.wait() != 0
    message = next(line for line in theirs.log().splitlines() if "perpetual_key_prefix 'perpetual'" in line)
    assert "'proj'" in message
    assert "'intruder'" in message
    assert "give each app a prefix of its own" in message
    assert ours.alive

    away = project(SLOTS, name="neighbour", perpetual_key_prefix="away", **LEADER).beat(name="away")
    wait_until(lambda: leader(store_redis, "away"), "the other app leads under its own prefix")
    assert leading(store_redis, [ours]) is ours
    assert away.alive


def test_a_beat_that_knows_more_units_takes_over_once(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """In a rolling deploy the newer beat asks for the lead, once; what it alone knows is orphaned, not forgotten."""
    source = """
    if "NEWER" in os.environ:
        def counted(poll):
            number = poll.cursor or 0
            return Batch([Item(args=(number,), queue="counted")], cursor=number + 1)

        @app.task(base=PerpetualTask, poll_every=0.25, next_batch=counted)
        def count(number): ...
    """
    proj = project(SLOTS + source.replace("\n    ", "\n"), **LEADER)
    older = [proj.beat() for _ in range(2)]
    leading(store_redis, older)

    newer = proj.beat(name="newer", env={"NEWER": "1"})
    # Its start, and two renewals of the older one.
    leading(store_redis, [newer], timeout=TTL + 2 * MACHINE)
    wait_for_more(store_redis, 3, newer.pid, "counted")
    term = leader(store_redis)
    # Long enough for the older ones to ask several times.
    wait_for_more(store_redis, round((TTL + 1) / EVERY), newer.pid)
    assert leader(store_redis) == term
    assert [event["change"] for event in events(store_redis, "leader")] == ["elected", "resigned", "elected"]

    newer.stop_signal()
    older_leader = leading(store_redis, older)
    wait_for_more(store_redis, 2, older_leader.pid)
    cursor = len(queued(store_redis, "counted"))
    units = proj.run_python("""
        import proj
        for unit in proj.perpetual.units():
            print(unit.name, unit.state, unit.cursor)
    """)
    assert units.splitlines() == [f"perpetual:proj.count orphaned {cursor}", "perpetual:proj.visit active None"]
    newer.cont()
    newer.wait_for_log("lost the lead")
    term = leader(store_redis)
    # Long enough for the newer one to ask again and be given the lead, if it did.
    wait_for_more(store_redis, round((TTL + 1) / EVERY), older_leader.pid)
    assert leader(store_redis) == term
    assert len(queued(store_redis, "counted")) == cursor

    for beat in sorted(older, key=lambda beat: beat is older_leader):
        assert beat.terminate()[0] == 0
    wait_for_more(store_redis, 2, newer.pid, "counted")
    numbers = [message.args[0] for message in queued(store_redis, "counted")]
    assert numbers == list(range(len(numbers)))
    slots = [slot_of(message) for message in queued(store_redis)]
    assert len(set(slots)) == len(slots)


def test_a_beat_inside_of_a_worker_leads_and_polls(project: Callable[..., Project], store_redis: redis.Redis) -> None:
    """`celery worker -B` polls, runs what it found, sends entries, and gives up the lead when it is stopped."""
    source = """
    def slots(poll):
        return [Item(args=(poll.slot.isoformat(),))]

    @app.task(base=PerpetualTask, poll_every=0.25, next_batch=slots)
    def visit(slot):
        ledger.record(slot)

    @app.task
    def entry():
        ledger.record("", "entry")

    app.conf.beat_schedule = {"often": {"task": "proj.entry", "schedule": 0.5}}
    """
    proj = project(source, **LEADER)
    worker = proj.worker("-B", "-s", str(proj.folder / "schedule"))

    wait_until(lambda: len(proj.rows("ran")) >= 4 and proj.rows("entry"), "items and entries ran")

    held = leader(store_redis)
    assert held is not None
    assert held[0] in worker.children()
    slots = [row.id for row in proj.rows("ran")]
    assert len(set(slots)) == len(slots)
    assert worker.terminate()[0] == 0
    assert [event["change"] for event in events(store_redis, "leader")] == ["elected", "resigned"]
