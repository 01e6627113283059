"""Beats as processes of their own: one leads, whatever is done to them; judged from the broker's queues."""

from __future__ import annotations

import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import LEADER_LOST, LEADER_STANDBY, POLL_SUPERSEDED
from tests.support import wait_until
from tests.support.beats import EVERY, LEADER, MACHINE, SLOTS, TTL, is_stopped, leading, slot_of, wait_for_more
from tests.support.broker import queued
from tests.support.stream_events import events, leader

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


@pytest.mark.slow
def test_each_slot_has_one_batch_while_leaders_are_killed_and_frozen(
    project: Callable[..., Project], store_redis: redis.Redis
) -> None:
    """Over 60 slots, one leader killed and one frozen, no slot is polled twice and none waits longer than a term."""
    proj = project(SLOTS, **LEADER)
    beats = [proj.beat() for _ in range(3)]
    killed = leading(store_redis, beats)
    terms = [leader(store_redis)]
    for standby in [beat for beat in beats if beat is not killed]:
        standby.wait_for_event(LEADER_STANDBY)
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
    frozen.wait_for_event(LEADER_LOST)
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
    # Claims of the woken one after its term, made or tried, counted for nothing.
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
    other.wait_for_event(LEADER_STANDBY)
    proj.write(f"freeze-{frozen.pid}", "")
    wait_until(lambda: is_stopped(frozen), "the leader is frozen in its poll")
    claimed = store_redis.hget("perpetual:u:perpetual:proj.visit", "claim")

    leading(store_redis, [other])
    wait_for_more(store_redis, 2, other.pid)
    frozen.cont()

    frozen.wait_for_event(POLL_SUPERSEDED)
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
    other.wait_for_event(LEADER_STANDBY)
    proj.write(f"freeze-{frozen.pid}", "")
    wait_until(lambda: is_stopped(frozen), "the leader is frozen before its claim")
    hold = proj.write("hold", "")
    due = store_redis.zscore("perpetual:due", "perpetual:proj.visit")
    assert due is not None
    assert slot_of(queued(store_redis)[-1]) < due / 1000

    leading(store_redis, [other])
    term = leader(store_redis)
    # Its own claim of just that slot stays open while the frozen one wakes.
    wait_until(
        lambda: (store_redis.hget(unit, "claimed") or "").startswith(f"{due:.0f} "), "the successor polls that slot"
    )
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
    second.wait_for_event(LEADER_STANDBY)
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
    standby.wait_for_event(LEADER_STANDBY)

    code, seconds = slow.terminate()
    ended = time.time()

    assert code == 0
    assert seconds < 5
    (message,) = wait_until(lambda: queued(store_redis), "the standby polls")
    assert message.pid == standby.pid
    assert message.claimed < ended + 1
    assert [poll["status"] for poll in events(store_redis, "poll")] == ["abandoned", "enqueued"]
