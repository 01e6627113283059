"""Every Lua script, sent twice with the very same arguments, and with keys of a wrong type.

A client repeats a call whose reply got lost. So after the second call the whole keyspace must be what it was after
the first, and the answer must be what the caller of the lost one needs. And Redis rolls nothing back: a script that
fails in the middle has written half of what it means.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import celery_perpetual
from celery_perpetual import StoreUnavailable
from celery_perpetual.ledger.staged import staged_list, sweep_staged
from celery_perpetual.store.scripts import script
from tests.support import wait_until
from tests.support.case import Case, after, dump
from tests.support.lease_cases import LEASE_CASES
from tests.support.lease_world import LeaseWorld
from tests.support.lost_cases import LOST_CASES
from tests.support.repair_cases import REPAIR_CASES
from tests.support.routine_cases import ROUTINE_CASES
from tests.support.script_cases import CASES as OTHER_CASES
from tests.support.script_slots import DAY, POLL, UNIT, Slots

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = [*OTHER_CASES, *LEASE_CASES, *LOST_CASES, *ROUTINE_CASES, *REPAIR_CASES]
LUA = Path(celery_perpetual.__path__[0]) / "store" / "lua"


@pytest.fixture
def world(redis_url: str) -> Iterator[LeaseWorld]:
    world = LeaseWorld(redis_url)
    yield world
    world.store.close()


def ready(world: LeaseWorld, case: Case) -> Slots:
    """An empty store, brought into the state of the case; returns the call's arguments."""
    world.redis.flushdb()
    world.leader = ""
    case.prepare(world)
    return case.slots(world)


def next_millisecond(world: LeaseWorld) -> None:
    """Make every time that a script writes of its own differ from now on."""
    before = world.store.now()
    wait_until(lambda: world.store.now() > before, "the store's clock goes on", interval=0.0005)


def test_every_script_has_a_case() -> None:
    """A script that somebody adds needs a case above: one that writes, unless it only reads."""
    files = {file.stem: file.read_text() for file in LUA.rglob("*.lua")}
    included = {
        line.split()[2]
        for text in files.values()
        for line in text.splitlines()
        if line.lstrip().startswith("-- include ")
    }
    called = files.keys() - included

    assert {case.script for case in CASES} == called
    # A new script that only reads is to be added here.
    assert {case.script for case in CASES if case.writes} == called - {
        "due",
        "due_routines",
        "rates",
        "taken",
        "unit_facts",
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.script}: {case.state}")
def test_a_repeated_call_changes_nothing(world: LeaseWorld, case: Case) -> None:
    """After the second of two equal calls every key is as after the first, and the answer is the right one."""
    slots = ready(world, case)
    before = dump(world.redis)

    first = world.run(case.script, slots)
    once = after(world.redis, case)
    next_millisecond(world)
    second = world.run(case.script, slots)
    twice = after(world.redis, case)

    assert case.first(first), f"first answer {first!r}"
    assert case.second(first, second), f"first answer {first!r}, second answer {second!r}"
    assert twice == once
    assert (dump(world.redis) != before) or not case.writes or case.moving


@pytest.mark.parametrize("case", [c for c in CASES if not c.writes], ids=lambda case: f"{case.script}: {case.state}")
def test_a_refused_call_changes_nothing(world: LeaseWorld, case: Case) -> None:
    """A refused call, and one that only reads, leave every key as it was."""
    slots = ready(world, case)
    before = dump(world.redis)

    world.run(case.script, slots)

    assert dump(world.redis) == before


@pytest.mark.parametrize("by_hand", [False, True], ids=["by the leader", "by hand"])
@pytest.mark.parametrize("delay", ["", "30000"], ids=["on the grid", "backing off"])
def test_a_claim_that_arrives_once_more_after_its_end_changes_nothing(
    world: LeaseWorld, by_hand: bool, delay: str
) -> None:
    """The first sending of a repeated claim may be overtaken: when it arrives, its poll has ended by then."""
    world.registered()
    slots = world.claim(mine="" if by_hand else None)
    world.run("claim", slots)
    world.run("close_polls", world.close_polls(delay=delay, failures="add", following="" if by_hand else str(DAY)))
    ended = dump(world.redis)

    world.run("claim", slots)

    assert dump(world.redis) == ended


def test_an_interrupted_sweep_is_finished_by_the_next(world: LeaseWorld) -> None:
    """A sweeper that dies between two calls, or repeats its first one, leaves nothing behind for good."""
    world.abandoned(3)
    world.redis.zadd(world.keys.staged, {f"{POLL} {UNIT}": 1})
    assert world.run("unstage", world.unstage("0-0")) == 1

    sweep_staged(world.store, staged_list(world.store))

    left = [key for key in dump(world.redis) if key.startswith(("P:i:", "P:keys:", "P:staged"))]
    assert left == []


def spoil(client: Any, key: str, kind: str) -> None:
    """Put something of a type where no script expects it."""
    wrong = "list" if kind == "string" else "string"
    client.delete(key)
    if wrong == "list":
        client.rpush(key, "of a wrong type")
    else:
        client.set(key, "of a wrong type")


def given_keys(world: LeaseWorld, case: Case, slots: Slots) -> list[str]:
    """Every key that the call is sent, whether the call names it or the store fills it in."""
    header = script(case.script).header
    named = {**vars(world.keys), **slots}
    return [named[name] for name in header.keys] + [key for name in header.more_keys for key in slots.get(name, ())]


@pytest.mark.parametrize("name", sorted({case.script for case in CASES}))
def test_a_key_of_a_wrong_type_fails_the_call_before_its_first_write(world: LeaseWorld, name: str) -> None:
    """A script that meets a key of a wrong type fails and has written nothing at all, whichever key it is."""
    half_written = []
    for case in [case for case in CASES if case.script == name and case.writes]:
        slots = ready(world, case)
        for key in [*given_keys(world, case, slots), *case.touches(world)]:
            slots = ready(world, case)
            # A bitmap is a string, and so is what stands for the leader.
            spoil(world.redis, key, case.touches(world).get(key) or world.redis.type(key).decode())
            before = dump(world.redis)
            try:
                world.run(name, slots)
                if key in case.touches(world):
                    half_written.append(f"{case.state}: {key} of a wrong type, and nobody minds")
            except StoreUnavailable:
                now = dump(world.redis)
                changed = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
                if changed:
                    half_written.append(f"{case.state}: {key} of a wrong type, but written: {', '.join(changed)}")

    assert half_written == []
