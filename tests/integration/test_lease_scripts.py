"""Single calls of the scripts of leases, and the keys that they leave; repeated calls are tested elsewhere."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import StoreUnavailable
from celery_perpetual.leases.on_lost import when_lost
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.store.commands.leases import LeaseText
from tests.support.lease_world import FREE, ITEM, ONE, OTHER, LeaseWorld
from tests.support.script_cases import FIRST
from tests.support.script_slots import DAY, POLL, UNACKED

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(redis_url: str) -> Iterator[LeaseWorld]:
    world = LeaseWorld(redis_url)
    yield world
    world.store.close()


def test_what_a_worker_holds_does_not_expire_with_it(world: LeaseWorld) -> None:
    """However long no cycle sweeps, a dead worker's leases are found: only what it says of itself expires."""
    world.begun()
    world.run("heartbeat", world.heartbeat(a="tag"))

    assert world.redis.ttl(world.keys.held(ONE)) == -1
    assert world.redis.ttl(world.keys.worker(ONE)) > 0
    assert world.redis.ttl(world.keys.tags(ONE)) > 0


def test_a_sweep_takes_so_many_and_says_whether_that_was_all(world: LeaseWorld) -> None:
    """A worker that held much is swept in parts."""
    world.died(2)

    assert world.run("sweep", world.sweep(most=1)) == [0, ONE.encode(), 1, 0]
    assert world.run("forget_worker", world.forget_worker()) == 0
    assert world.run("sweep", world.sweep(most=1)) == [0, ONE.encode(), 1, 1]
    assert world.run("forget_worker", world.forget_worker()) == 1
    assert world.redis.hlen(world.keys.leases) == 0
    assert world.redis.zcard(world.keys.resend) == 2


def test_a_sweep_parks_fewer_at_once_and_all_in_the_end(world: LeaseWorld) -> None:
    """Parking announces each, so it counts as five; what does not fit is still held and comes with the next call."""
    for number in range(5):
        world.begun(f"n{number}", f"task {number}", on_lost="park")
    world.redis.zadd(world.keys.workers, {ONE: 1})

    taken = [world.run("sweep", world.sweep(most=11)) for _ in range(2)]

    assert [answer[:4] for answer in taken] == [[0, ONE.encode(), 3, 0], [0, ONE.encode(), 2, 1]]
    parked = {name.decode() for answer in taken for name in answer[4::3]}
    assert parked == {f"task {number}" for number in range(5)}
    assert world.redis.hlen(world.keys.parked) == 5
    told = Counter(fields[b"event"] for _, fields in world.redis.xrange(world.keys.events))
    assert told[b"lease.lost"] == told[b"completion"] == told[b"lease.parked"] == 5
    assert not world.redis.exists(world.keys.leases, world.keys.resend)


@pytest.mark.parametrize("odd", ["", "<bound method Mine.on_lost of 'a b'>", "REQUEUE-1%s"])
def test_what_a_lease_says_oddly_does_not_stop_the_sweep(world: LeaseWorld, odd: str) -> None:
    """A worker's leases are taken whichever app put them there; tasks of other apps are not looked up."""
    world.begun("n1", "odd task", on_lost=odd)
    world.begun("n2", "another")
    world.redis.zadd(world.keys.workers, {ONE: 1})

    assert world.run("sweep", world.sweep()) == [0, ONE.encode(), 2, 1]
    assert world.redis.zcard(world.keys.resend) == 2
    assert when_lost(SimpleNamespace(on_lost=odd))[1] == "requeue"


def test_a_few_short_states_are_a_table(world: LeaseWorld) -> None:
    """As a list they would be read from end to end by every start and every end of any task."""
    world.died(2)
    world.run("sweep", world.sweep())

    assert world.redis.hlen(world.keys.states) == 2
    assert world.redis.object("encoding", world.keys.states) == b"hashtable"


def test_a_worker_may_have_received_any_number_of_messages(world: LeaseWorld) -> None:
    """More news than Lua can unpack at once is announced all the same, and taken back."""
    many = {f"task {n}": f"tag {n}" for n in range(10_000)}

    world.run("heartbeat", world.heartbeat(**many))
    assert world.redis.hlen(world.keys.tags(ONE)) == len(many)
    world.run("heartbeat", world.heartbeat(gone=tuple(many)))

    assert not world.redis.exists(world.keys.tags(ONE))


def test_a_token_is_larger_than_all_before(world: LeaseWorld) -> None:
    """The later execution of a task has the larger token."""
    world.begun()
    tokens = [int(world.run("start", world.start())[1])]
    for n in range(3):
        world.run("release", world.release("lost", f"n{n + 1}"))
        tokens.append(int(world.run("start", world.start(f"n{n + 2}", ITEM))[1]))

    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("comes", ["before the end", "after the end"])
def test_what_a_task_sends_under_its_own_id_is_run_once_and_not_lost(world: LeaseWorld, comes: str) -> None:
    """A worker may receive it while the body runs that has sent it: then it is sent again from its copy at the end."""
    world.hands_on("back", copy="")
    if comes == "before the end":
        assert world.run("start", world.start("n2", worker=OTHER))[0] == b"adopted"
    assert not world.redis.exists(world.keys.copies)  # it is no successor until its sender says so
    world.run("release", world.release("back", copy="sent by hand"))
    if comes == "before the end":
        assert world.redis.hget(world.keys.copies, ITEM) == b"sent by hand"
        assert world.run("resent", world.resent()) == 1

    assert world.run("start", world.start("n3", worker=OTHER, copy="sent by hand"))[0] == b"run"
    assert world.run("end_item", world.ended("n3"))[0] == b"first"
    assert not world.redis.exists(world.keys.states, world.keys.copies, world.keys.resend, world.keys.leases)


@pytest.mark.parametrize("nonce", ["n1", "another delivery"])
def test_a_release_acknowledges_a_message(world: LeaseWorld, nonce: str) -> None:
    """The one whose tag it is given, whichever worker holds the lease by now."""
    world.begun()
    world.received("n1", "n2")

    world.run("release", world.release("wait", nonce, tag="tag of n1"))

    assert world.unacked() == ["n2"]


@pytest.mark.parametrize("acknowledges", [0, 1])
def test_a_start_acknowledges_its_own_message(world: LeaseWorld, acknowledges: int) -> None:
    """Whether it may run or not; but only where the message is to be acknowledged before the task runs."""
    world.committed()
    world.received("n1", "n2", "n3")

    world.run("start", world.start("n1", acknowledges=acknowledges))
    assert world.unacked() == (["n2", "n3"] if acknowledges else ["n1", "n2", "n3"])
    assert world.run("start", world.start("n2", worker=OTHER, acknowledges=acknowledges))[0] == b"adopted"
    assert world.unacked() == (["n3"] if acknowledges else ["n1", "n2", "n3"])


def test_an_end_acknowledges_its_own_message(world: LeaseWorld) -> None:
    """Together with the record, the lease and the item."""
    world.begun()
    world.received("n1", "n2")

    assert world.run("end_item", world.ended(tag="tag of n1"))[0] == b"first"

    assert world.unacked() == ["n2"]


def test_a_late_end_acknowledges_its_message_unless_another_execution_has_it(world: LeaseWorld) -> None:
    """Kombu puts a message back under its tag: then it is the copy of the worker that executes the task now."""
    world.superseded()
    world.received("n1", "n2")

    assert world.run("end_item", world.ended(tag="tag of n2"))[0] == b"late"
    assert world.unacked() == ["n1", "n2"]
    assert world.run("end_item", world.ended(tag="tag of n1"))[0] == b"late"
    assert world.unacked() == ["n2"]


def test_keys_that_hold_no_unacked_messages_hold_up_nothing(world: LeaseWorld) -> None:
    """They are the broker's. Where something else has their names, tasks begin and end all the same."""
    world.committed()
    for key in UNACKED.values():
        world.redis.set(key, "something else")

    assert world.run("start", world.start(acknowledges=1))[0] == b"run"
    assert world.run("end_item", world.ended(tag="tag of n1"))[0] == b"first"


@pytest.mark.parametrize("free", [False, True], ids=["an item", "any task"])
def test_a_silent_end_that_comes_second_acknowledges_its_message_too(world: LeaseWorld, free: bool) -> None:
    """An operator has ended it while it ran, and nothing is announced."""
    world.begun(task_id=FREE if free else ITEM)
    silent = {"head": ""}
    name, verdict = ("end_task", b"unknown") if free else ("end_item", b"first")
    assert world.run(name, {**world.ended("*", status="revoked", started=False, free=free), **silent})[0] == verdict
    world.received("n1", "n2")

    world.run(name, {**world.ended("" if free else "n1", started=False, free=free, tag="tag of n1"), **silent})

    assert world.unacked() == ["n2"]


def test_an_id_that_was_used_days_ago_is_another_task(world: LeaseWorld) -> None:
    """The tombstone of its earlier use keeps neither its first delivery nor its retry from running."""
    world.redis.sadd(f"{world.keys.tombs_prefix}{world.store.now() // DAY - 3}", FREE)
    assert world.run("start", world.start("late", FREE))[0] == b"final"

    world.begun("n1", FREE, ended=0)
    assert world.run("start", world.start("n2", FREE))[0] == b"adopted"
    assert world.run("release", world.release("wait", task_id=FREE)) == b"released"
    assert world.run("start", world.start("n3", FREE, order=(0, 1)))[0] == b"run"
    assert world.run("end_task", world.ended("n3", free=True))[0] == b"first"
    assert world.run("start", world.start("n4", FREE, order=(0, 1)))[0] == b"final"


@pytest.mark.parametrize("held_before", [False, True])
def test_a_start_without_a_token_leaves_what_the_worker_holds(world: LeaseWorld, held_before: bool) -> None:
    """The set is written to before the number of the lease is known, and is as it was where there is none."""
    world.committed()
    if held_before:
        world.redis.sadd(world.keys.held(ONE), ITEM)
    world.redis.set(world.keys.token, "no number")

    with pytest.raises(StoreUnavailable, match="not an integer"):
        world.run("start", world.start())

    assert world.redis.smembers(world.keys.held(ONE)) == ({ITEM.encode()} if held_before else set())
    assert not world.redis.exists(world.keys.leases)


def test_one_start_of_a_chunk_measures_its_bitmap_for_the_others(world: LeaseWorld) -> None:
    """Small chunks are asked for their length each time; what the bitmap does not reach is not over."""
    world.committed(items=20)
    done = world.keys.done(POLL, 0)
    assert world.run("end_item", world.end_item(2)) == FIRST
    assert world.redis.strlen(done) == 1

    verdicts = [world.run("start", world.start(f"n{n}", item_id(POLL, n)))[0] for n in (2, 3, 9, 19)]

    assert verdicts == [b"final", b"run", b"run", b"run"]
    assert world.redis.strlen(done) == 3
    assert world.redis.bitcount(done) == 1
    world.redis.delete(world.keys.chunk(POLL, 0), done)
    assert world.run("start", world.start("n4", item_id(POLL, 4)))[0] == b"final"
    assert not world.redis.exists(done)


def test_a_lease_says_whether_its_task_has_a_state(world: LeaseWorld) -> None:
    """So that an end looks for one only where there is one, and forgets it then."""
    world.committed()
    world.begun()

    def has_state() -> bool:
        return LeaseText.read(world.redis.hget(world.keys.leases, ITEM)).has_state

    assert not has_state()
    assert world.run("note_successor", world.note_successor()) == 1
    assert has_state()
    assert world.run("end_item", world.ended()) == FIRST
    assert not world.redis.exists(world.keys.states, world.keys.copies, world.keys.leases)
    world.begun("n2", FREE)
    world.run("release", world.release("wait", "n2", FREE))
    world.begun("n3", FREE, order=(0, 1))
    assert LeaseText.read(world.redis.hget(world.keys.leases, FREE)).has_state
