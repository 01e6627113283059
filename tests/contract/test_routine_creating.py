"""Creating routines does what the contract says: ids, keys, many at once, fields that are refused."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import datetime, timedelta, timezone
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import AlreadyExists, IdempotencyConflict, InvalidRoutine
from celery_perpetual.store.connection import Store
from tests.support.routines import after

if TYPE_CHECKING:
    from tests.support.routines import World


def test_what_is_created_is_what_is_read(world: World, now: datetime) -> None:
    """A routine has an id of ours, is active, and is due at its time; every way to read it shows the same."""
    made = world.create(7, at=after(now, 1000), metadata={"user": 7})

    assert made.created
    assert made.id.startswith("routine_")
    assert (made.state, made.next_run_at, made.metadata) == ("active", after(now, 1000), {"user": 7})
    assert (made.task, made.args, made.attempt_count, made.version) == ("app.work", (7,), 0, 1)
    assert world.routines.get(made.id) == made
    assert world.routines.list(id=made.id) == [made]


def test_an_id_is_used_once(world: World, now: datetime) -> None:
    """The key counts in every state of the first routine."""
    world.create(at=now, id="mine")
    world.routines.cancel("mine")

    with pytest.raises(AlreadyExists, match="'mine'"):
        world.create(at=now, id="mine")


@pytest.mark.parametrize("name", ["mine", "routine_mine"])
def test_an_id_is_used_once_within_a_millisecond(world: World, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Two calls with the same fields at the same time are no call that is sent twice: the second one is refused."""
    at = world.perpetual.store.now()
    monkeypatch.setattr(Store, "now", lambda _self: at)
    world.create(every=60, id=name)
    world.create(every=60, id="keyed", idempotency_key="k")

    with pytest.raises(AlreadyExists, match=f"'{name}'"):
        world.create(every=60, id=name)
    assert not world.create(every=60, id="keyed", idempotency_key="k").created


def test_an_idempotency_key_creates_one_routine(world: World, now: datetime) -> None:
    """The second call gets the first routine; with other fields it is a mistake. The key is free when the routine is gone."""
    first = world.create(1, at=now, idempotency_key="order-1")
    second = world.create(1, at=now, idempotency_key="order-1")

    assert (second.id, second.created) == (first.id, False)
    with pytest.raises(IdempotencyConflict, match="order-1"):
        world.create(2, at=now, idempotency_key="order-1")
    assert len(world.routines.list()) == 1

    world.run()
    assert not world.create(1, at=now, idempotency_key="order-1").created
    world.routines.delete(first.id)
    assert world.create(1, at=now, idempotency_key="order-1").created


def test_options_that_mean_the_same_make_the_same_call(world: World, now: datetime) -> None:
    """However they are written: a duration, a time in another zone, and the serializer that the task has anyway."""
    end = after(now, 3_600_500)
    there = end.astimezone(timezone(timedelta(hours=5, minutes=30)))
    same: dict[str, list[dict[str, Any]]] = {
        "a": [{"expires": 60}, {"expires": 60.0}, {"expires": timedelta(minutes=1)}],
        "b": [{"expires": end}, {"expires": there}, {"expires": there.isoformat()}],
        "c": [{}, {"serializer": "json"}],
    }
    for key, several in same.items():
        made = [world.create(at=now, idempotency_key=key, options=options) for options in several]
        assert [(each.id, each.created) for each in made] == [(made[0].id, n == 0) for n in range(len(several))]
        for other in ({"expires": 61}, {"expires": after(end, 1)}, {"serializer": "yaml"}):
            with pytest.raises(IdempotencyConflict):
                world.create(at=now, idempotency_key=key, options=other)


class Number(IntEnum):
    ONE = 1


@pytest.mark.parametrize(("serializer", "is_same"), [("json", True), ("pickle", False)])
def test_arguments_that_reach_the_task_alike_make_the_same_call(
    world: World, now: datetime, serializer: str, is_same: bool
) -> None:
    """JSON makes a number of an enum, and a list of a tuple; pickle keeps what they are."""
    fields: dict[str, Any] = {"at": now, "options": {"serializer": serializer}}
    for key, one, other in (("enum", Number.ONE, 1), ("tuple", (1, 2), [1, 2])):
        first = world.create(one, idempotency_key=key, **fields)
        again = world.routines.create("app.work", [one], idempotency_key=key, **fields)
        assert (again.id, again.created) == (first.id, False)
        with nullcontext() if is_same else pytest.raises(IdempotencyConflict):
            assert not world.create(other, idempotency_key=key, **fields).created


def test_a_call_with_id_and_idempotency_key_may_be_repeated(world: World, now: datetime) -> None:
    """The routine of this id has this key, so it is the same call; another key, or none, is another routine."""
    first = world.create(7, id="mine", idempotency_key="k", at=now)
    others = [{"task": "app.work", "at": now, "id": name, "idempotency_key": name} for name in ("a", "b")]

    again, *rest = world.routines.create_many(
        [{"task": "app.work", "args": [7], "at": now, "id": "mine", "idempotency_key": "k"}, *others]
    )

    assert (again.id, again.created, again.version) == (first.id, False, 1)
    assert [(each.id, each.created) for each in rest] == [("a", True), ("b", True)]
    with pytest.raises(IdempotencyConflict):
        world.create(8, id="mine", idempotency_key="k", at=now)
    for key in ("other", None):
        with pytest.raises(AlreadyExists):
            world.create(7, id="mine", idempotency_key=key, at=now)


def test_many_are_created_in_one_step_or_not_at_all(world: World, now: datetime) -> None:
    """500 at a time; a field that is wrong in the last one stores none of all."""
    fields = [{"task": "app.work", "args": (n,), "at": now, "id": f"r{n:04}"} for n in range(700)]

    with pytest.raises(InvalidRoutine, match="every"):
        world.routines.create_many([*fields, {"task": "app.work", "every": 0}])
    assert world.routines.list() == []

    world.create(at=now, id="r0600")
    with pytest.raises(AlreadyExists, match="r0600"):
        world.routines.create_many(fields)
    assert len(world.routines.list()) == 501

    world.routines.clear()
    made = world.routines.create_many(fields)
    assert [each.id for each in made] == [each["id"] for each in fields]
    assert len(world.routines.list(limit=1000)) == 700


def test_a_step_that_is_refused_while_another_is_on_its_way(world: World, now: datetime) -> None:
    """The step before stays, whether the store refuses the next one or it is refused before it is sent."""
    fields = [{"task": "app.work", "args": (n,), "at": now, "id": f"r{n:04}"} for n in range(1200)]

    with pytest.raises(AlreadyExists, match="'r0501' is given twice"):
        world.routines.create_many([*fields[:502], fields[501], *fields[502:]])
    assert len(world.routines.list(limit=2000)) == 500
    with pytest.raises(AlreadyExists, match="'r0000' exists already"):
        world.routines.create_many([*fields[500:1000], *fields[:10], *fields[1000:]])
    assert len(world.routines.list(limit=2000)) == 1000

    key = [{"task": "app.work", "at": now, "idempotency_key": f"k{n % 700}"} for n in range(1400)]
    made = world.routines.create_many(key)
    assert [each.created for each in made] == [n < 700 for n in range(1400)]
    assert [each.id for each in made[700:]] == [each.id for each in made[:700]]
    assert len(world.events("routine.created")) == 1700


def test_keys_are_used_once_within_one_call(world: World, now: datetime) -> None:
    """Two of the same key are one routine, two of the same id a mistake."""
    same = {"task": "app.work", "at": now, "idempotency_key": "k"}

    first, second = world.routines.create_many([same, same])
    assert (first.id, first.created, second.created) == (second.id, True, False)
    with pytest.raises(IdempotencyConflict):
        world.routines.create_many([{**same, "args": (1,), "idempotency_key": "l"}, {**same, "idempotency_key": "l"}])
    with pytest.raises(AlreadyExists):
        world.routines.create_many([{**same, "idempotency_key": None, "id": "x"}] * 2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"task": "app.work"}, "at"),
        ({"every": 5}, "task"),
        ({"task": 7, "every": 5}, "task"),
        ({"task": "app.work", "every": 5, "at": datetime.now(timezone.utc)}, "every"),
        ({"task": "app.work", "every": 0}, "every"),
        ({"task": "app.work", "at": datetime(2030, 1, 1)}, "at"),  # without a zone
        ({"task": "app.work", "at": -1}, "at"),
        ({"task": "app.work", "every": 5, "start_at": "x"}, "start_at"),
        ({"task": "app.work", "every": 5, "catch_up": 1}, "catch_up"),
        ({"task": "app.work", "every": 5, "retries": 3}, "retries"),
        ({"task": "app.work", "every": 5, "paused": "yes"}, "paused"),
        ({"task": "app.work", "every": 5, "metadata": [1]}, "metadata"),
        ({"task": "app.work", "every": 5, "metadata": {"a": object()}}, "metadata"),
        ({"task": "app.work", "every": 5, "id": ""}, "id"),
        ({"task": "app.work", "every": 5, "id": 7}, "id"),
        ({"task": "app.work", "every": 5, "idempotency_key": ""}, "idempotency_key"),
        ({"task": "app.work", "every": 5, "next_run_at": 7}, "next_run_at"),
        ({"task": "app.work", "every": 5, "args": "ab"}, "args"),
        ({"task": "app.work", "every": 5, "args": (object(),)}, "args"),
        ({"task": "app.work", "every": 5, "kwargs": [1]}, "kwargs"),
        ({"task": "app.work", "every": 5, "kwargs": {"nobody": object()}}, "kwargs"),
        ({"task": "app.work", "every": 5, "options": {"quee": "x"}}, "options"),
        ({"task": "app.work", "every": 5, "options": {"countdown": 3}}, "options"),
        ({"task": "app.work", "every": 5, "options": {"serializer": "none"}}, "options"),
        ({"task": "app.work", "every": 5, "state": "running"}, "state"),
        ({"task": "app.work", "every": 5, "retry": 3}, "retry"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_stored(world: World, fields: dict[str, Any], field: str) -> None:
    """The error names field and value; arguments that the serializer cannot carry are refused now, not at midnight."""
    with pytest.raises(InvalidRoutine) as refused:
        world.routines.create(**fields)

    assert refused.value.field == field
    assert field in str(refused.value)
    assert world.routines.list() == []
    assert world.events() == []


def test_an_unknown_field_is_refused_with_the_nearest_name(world: World) -> None:
    with pytest.raises(InvalidRoutine, match="idempotency is unknown, did you mean idempotency_key"):
        world.create(every=5, idempotency="x")
