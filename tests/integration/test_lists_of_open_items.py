"""Every open item is on the lists that docs/leases.md names for its state."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.store.commands.leases import state_of
from tests.support.lease_world import ITEM, LeaseWorld
from tests.support.script_slots import POLL

if TYPE_CHECKING:
    from collections.abc import Callable

#: How an item gets into each state, and the flag of its state in the store.
STATES: dict[str, tuple[Callable[[LeaseWorld], object], str | None]] = {
    "is committed and not published": (lambda w: w.committed(pushed=False), None),
    "is published, and no worker has it": (lambda w: w.committed(), None),
    "runs": (lambda w: w.begun(), None),
    "has sent a retry of itself": (lambda w: w.released("wait"), "wait"),
    "has replaced itself by one task": (lambda w: w.handed_on(), "wait"),
    "has replaced itself by several": (lambda w: w.released("delegated"), "delegated"),
    "is lost": (lambda w: w.released(), "resend"),
    "is lost, and is to fail": (lambda w: w.released(on_lost="fail"), "fail"),
    "is parked": (lambda w: w.released(on_lost="park"), "parked"),
}


def documented() -> dict[str, set[str]]:
    """The lists of each state, by the page."""
    text = (Path(__file__).parents[2] / "docs/leases.md").read_text()
    table = text.partition("| an item | is on |")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in table]
    return {state: {name.strip("` ") for name in lists.split(",")} for state, lists, _ in rows}


def lists_of(world: LeaseWorld) -> set[str]:
    """The lists that the item, or its batch, is on."""
    r, k = world.redis, world.keys
    # Parked tasks are listed by time too.
    assert (r.zscore(k.parked_at, ITEM) is None) == (r.hget(k.parked, ITEM) is None)
    found = {
        "outbox": r.zscore(k.outbox, POLL), "leases": r.hget(k.leases, ITEM), "resend": r.zscore(k.resend, ITEM),
        "parked": r.hget(k.parked, ITEM), "open": r.zscore(k.open, POLL),
    }  # fmt: skip
    return {name for name, value in found.items() if value is not None}


def test_every_state_is_documented() -> None:
    assert documented().keys() == STATES.keys()


@pytest.mark.parametrize("state", STATES)
def test_an_open_item_is_on_its_lists(redis_url: str, state: str) -> None:
    """And on none when it has ended."""
    world = LeaseWorld(redis_url)
    make, flag = STATES[state]
    make(world)
    stored = state_of(world.store, ITEM)
    assert (None if stored is None else stored.flag) == flag
    named = documented()[state]
    # A batch that waits for its publication is open too; the search leaves it to the relay.
    assert lists_of(world) - ({"open"} if named == {"outbox"} else set()) == named
    for index in range(3):
        world.run("end_item", world.end_item(index, nonce="*"))
    assert lists_of(world) <= {"outbox"}
    world.store.close()


def test_a_parked_item_that_is_recovered_is_on_the_list_of_lost_ones(redis_url: str) -> None:
    world = LeaseWorld(redis_url)
    world.released(on_lost="park")
    assert world.run("recover", world.recover()) == 1
    assert lists_of(world) == {"resend", "open"}
    world.store.close()


@pytest.mark.parametrize("cause", ["wait", "delegated"])
def test_the_message_of_a_successor_is_kept_until_it_begins(redis_url: str, cause: str) -> None:
    """A lost one is sent again from there, with its order; it is kept no longer, also where it never begins."""
    world = LeaseWorld(redis_url)
    copies = world.keys.copies
    world.handed_on(cause)
    assert world.redis.hget(copies, ITEM) == b"its message"

    assert world.run("declare_lost", world.declare_lost()) == b"resend"
    assert world.redis.hget(copies, ITEM) == b"its message"
    assert world.run("resent", world.resent()) == 1
    order = (1, 0) if cause == "delegated" else (0, 1)
    assert world.run("start", world.start("n2", order=order))[0] == b"run"
    assert world.redis.exists(copies) == 0

    world.redis.flushall()
    world.handed_on(cause)
    world.run("end_item", world.end_item(1, nonce="*"))
    assert world.redis.exists(copies) == 0
    world.store.close()
