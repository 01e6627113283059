"""Beats that differ: of another app on the same prefix, and of a newer version that knows more units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from celery_perpetual.events import APP_OTHER, LEADER_LOST
from tests.support import wait_until
from tests.support.beats import EVERY, LEADER, MACHINE, SLOTS, TTL, leading, slot_of, wait_for_more
from tests.support.broker import queued
from tests.support.stream_events import events, leader

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.support import Project


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
    assert "give each app a prefix of its own, and queues of its own" in message
    assert "or a broker database of its own" in message
    assert ours.alive

    away = project(SLOTS, name="neighbour", perpetual_key_prefix="away", **LEADER).beat(name="away")
    wait_until(lambda: leader(store_redis, "away"), "the other app leads under its own prefix")
    assert leading(store_redis, [ours]) is ours
    assert away.alive


@pytest.mark.parametrize("first", ["beat", "worker"])
def test_a_worker_of_another_app_on_the_same_prefix_warns(
    project: Callable[..., Project], store_redis: redis.Redis, first: str
) -> None:
    """Whether it meets the other app's beat or its worker; it names both apps and what each needs of its own."""
    proj = project(SLOTS, **LEADER)
    ours = (proj.beat() if first == "beat" else proj.worker()).ready()
    if first == "beat":
        leading(store_redis, [ours])
    second = proj.worker().ready()
    assert APP_OTHER.name not in second.log()

    theirs = project(SLOTS, name="intruder", **LEADER).worker(name="theirs").ready()

    warning = theirs.wait_for_event(APP_OTHER)["warning"]
    assert "in use by the app 'proj'" in warning
    assert "this app is 'intruder'" in warning
    assert "queues of its own (task_default_queue) or a broker database of its own" in warning


@pytest.mark.slow
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
    newer.wait_for_event(LEADER_LOST)
    term = leader(store_redis)
    # Long enough for the newer one to ask again and be given the lead, if it did.
    wait_for_more(store_redis, round((TTL + 1) / EVERY), older_leader.pid)
    assert leader(store_redis) == term
    # A poll that was open when it was frozen is still its own to end: no other beat knows the unit. It begins no other.
    assert len(queued(store_redis, "counted")) in (cursor, cursor + 1)

    for beat in sorted(older, key=lambda beat: beat is older_leader):
        assert beat.terminate()[0] == 0
    wait_for_more(store_redis, 2, newer.pid, "counted")
    numbers = [message.args[0] for message in queued(store_redis, "counted")]
    assert numbers == list(range(len(numbers)))
    slots = [slot_of(message) for message in queued(store_redis)]
    assert len(set(slots)) == len(slots)
