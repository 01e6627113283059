"""Units that no code has are forgotten after a week, pass by pass, and never a cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.beat.orphans import AGE_MS, Orphans
from celery_perpetual.store.connection import Store
from tests.support.scripts import store_at

if TYPE_CHECKING:
    from celery import Celery


@pytest.fixture
def store(redis_url: str) -> Iterator[Store]:
    store = store_at(redis_url)
    yield store
    store.close()


def unit(task: str) -> str:
    return f"perpetual:{task}"


def remember(store: Store, task: str, age_ms: int, **facts: str) -> None:
    """A unit that was last known that long ago."""
    store.redis.zadd(store.keys.units, {unit(task): store.now() - age_ms})
    store.redis.hset(store.keys.unit(unit(task)), mapping={"anchor": "1", **facts})


def units(store: Store) -> set[str]:
    return {name.decode().removeprefix("perpetual:") for name in store.redis.zrange(store.keys.units, 0, -1)}


class Known(set[str]):
    """The units that some code has; ``departed`` are of tenants that have gone."""

    departed: frozenset[str] = frozenset()

    def is_known(self, name: str) -> bool:
        return name in self

    def has_departed(self, name: str) -> bool:
        return name in self.departed


def test_those_that_stay_do_not_hide_the_ones_behind_them(store: Store) -> None:
    """More units than one pass looks at, all of which stay, are older than one that goes."""
    for number in range(5):
        remember(store, f"cursor{number}", AGE_MS + 9000 - number, cursor="7")
    for number in range(5):
        remember(store, f"disabled{number}", AGE_MS + 8000 - number)
    remember(store, "gone", AGE_MS + 1000)
    remember(store, "lately", AGE_MS - 60_000)
    orphans = Orphans(store, lambda: Known(unit(f"disabled{number}") for number in range(5)), limit=2)

    dropped = [orphans.drop() for _ in range(6)]

    assert sum(dropped) == 1
    assert units(store) == {*(f"cursor{n}" for n in range(5)), *(f"disabled{n}" for n in range(5)), "lately"}
    assert store.redis.hgetall(store.keys.unit(unit("cursor4"))) == {b"cursor": b"7"}
    assert not store.redis.exists(store.keys.unit(unit("gone")))


def test_passes_begin_again_at_the_oldest(store: Store) -> None:
    """One that stayed because of its items goes when they have ended."""
    remember(store, "busy", AGE_MS + 9000, inflight="1")
    for number in range(3):
        remember(store, f"gone{number}", AGE_MS + 5000 - number)
    orphans = Orphans(store, Known, limit=2)
    while orphans.drop():
        pass
    assert units(store) == {"busy"}

    store.redis.hset(store.keys.unit(unit("busy")), "inflight", "0")

    assert orphans.drop() == 1
    assert units(store) == set()


def test_items_that_tasks_have_named_are_not_forgotten_with_their_unit(store: Store) -> None:
    """The code that would poll them comes back with a later deploy; those of a tenant that has gone are of no use."""
    remember(store, "named", AGE_MS + 9000)
    store.redis.rpush(store.keys.follow_ups(unit("named")), "a record")
    known = Known()
    orphans = Orphans(store, lambda: known)
    assert orphans.drop() == 0
    assert store.redis.exists(store.keys.follow_ups(unit("named")))

    known.departed = frozenset({unit("named")})

    assert orphans.drop() == 1
    assert not store.redis.exists(store.keys.follow_ups(unit("named")))


def test_a_unit_that_was_only_polled_by_hand_is_forgotten_too(make_app: Callable[..., Celery]) -> None:
    """No beat ever knew it; the poll itself makes it one that somebody forgets."""
    perpetual = Perpetual(make_app("shop"))
    options = {"base": PerpetualTask, "name": "by_hand", "poll_every": 60, "next_batch": lambda: None, "shared": False}

    def nothing() -> None: ...

    perpetual.poll(perpetual.app.task(**options)(nothing))
    store = perpetual.store
    assert units(store) == {"by_hand"}
    orphans = Orphans(store, Known)
    assert orphans.drop() == 0

    store.redis.zincrby(store.keys.units, -AGE_MS - 1000, unit("by_hand"))

    assert orphans.drop() == 1
    assert units(store) == set()
    assert not store.redis.exists(store.keys.unit(unit("by_hand")), store.keys.polls(unit("by_hand")))
    store.close()
