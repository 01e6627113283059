"""Pauses beside open batches, and lists that are read part by part."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import ContractError, Item
from celery_perpetual.pauses import EVERYTHING, Scope, operator
from celery_perpetual.starvation import waits
from tests.support.contract import nothing
from tests.support.ladder import NEVER, Beat
from tests.support.stream_events import events

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual import Perpetual


def test_a_paused_unit_finishes_the_publishing_of_its_batch(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """A batch that a dead process has committed and not wholly published is published while everything is paused."""
    perpetual = shop(lambda: [(n,) for n in range(600)])
    poll = perpetual.poll("deliver").poll_id
    store_redis.ltrim("celery", 100, -1)
    store_redis.hset(f"perpetual:p:{poll}", "pub", 500)
    store_redis.zadd("perpetual:outbox", {poll: 1})
    perpetual.pause(everything=True)

    found = perpetual.cycle()

    assert (found.relayed, found.paused, found.errors) == (100, True, {})
    assert store_redis.llen("celery") == 600


@pytest.mark.parametrize(
    "text",
    [
        "not JSON", "[]", '{"until_ms": "soon", "until": "soon", "at": "now"}', '{"at": null}', "[" * 100_000,
        '{"until_ms": "1"}', '{"until_ms": true}', '{"until_ms": NaN}', '{"until_ms": 1e30}', '{"until_ms": -1e30}',
        '{"until_ms": 253402300800000, "at": "0001-01-01T00:00:00+14:00"}',
    ],
)  # fmt: skip
def test_a_pause_that_cannot_be_read_holds(shop: Callable[..., Perpetual], store_redis: redis.Redis, text: str) -> None:
    """For units, for routines and for the ladder; it is shown, and ended like any other."""
    perpetual = shop(lambda: [(1,)])
    perpetual.app.task(name="report", shared=False)(nothing)
    perpetual.routines.create(id="now", task="report", every=60)
    store_redis.hset("perpetual:paused", "*", text)

    (unit,) = perpetual.units()
    assert (unit.state, unit.pause is not None) == ("paused", True)
    assert unit.to_dict()["pause"]["until"] is None
    found = perpetual.cycle()
    assert (found.paused, found.routines_started, found.errors) == (True, 0, {})
    assert perpetual.resume(everything=True)
    assert perpetual.cycle().routines_started == 1


def test_a_resume_takes_what_a_pause_takes(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """Scope, reason and end may be given to both alike; the event says who has resumed it, and why."""
    perpetual = shop(lambda: [(1,)])
    about: Any = {"task": "deliver", "reason": "upgrade", "until": datetime.max.replace(tzinfo=timezone.utc)}

    perpetual.pause(**about)
    assert perpetual.resume(**about)
    assert perpetual.pause(queue="celery")
    assert perpetual.resume(queue="celery")

    one, other = events(store_redis, "resume")
    assert (one["scope"], one["by"], one["reason"]) == ("perpetual:deliver", operator(), "upgrade")
    assert (other["queue"], other["reason"]) == ("celery", "no reason given")


def test_a_scope_without_units_is_known_as_such(shop: Callable[..., Perpetual]) -> None:
    """A queue, or a tenant, that no task has: the name may be misspelt."""
    perpetual = shop(lambda: [(1,)])

    scopes = EVERYTHING, Scope("queue", "celery"), Scope("queue", "celry"), Scope("tenant", "acme")

    assert [perpetual.holds_units(scope) for scope in scopes] == [True, True, False, False]


def test_a_pause_until_the_end_of_the_calendar(shop: Callable[..., Perpetual]) -> None:
    """It can be read; a time that UTC does not have is refused."""
    perpetual = shop(lambda: [(1,)])
    latest = datetime.max.replace(tzinfo=timezone.utc)
    perpetual.pause(everything=True, until=latest)
    (pause,) = perpetual.pauses.now().values()
    assert pause.until == latest.replace(microsecond=999_000)
    west = timezone(timedelta(hours=-5))
    with pytest.raises(ContractError, match="years 1 to 9999"):
        perpetual.pause(everything=True, until=datetime.max.replace(tzinfo=west))


def test_batches_are_read_part_by_part(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A round takes several passes: each queue is found once, and none is thought to be empty in the middle of it."""
    monkeypatch.setattr(waits, "MOST_BATCHES", 2)
    rows: list[Item] = []
    perpetual = shop(lambda: rows, {"perpetual_starvation": NEVER | {"notice": 0.1, "wake": 0.3}})
    for queue in ("a", "a", "b", "a", "c"):
        rows[:] = [Item((), queue=queue, key=False)]
        perpetual.poll("deliver")

    Beat(perpetual).passes(1)

    assert sorted(each["queue"] for each in events(store_redis, "starvation.notice")) == ["a", "b", "c"]
    assert sorted(each["queue"] for each in events(store_redis, "starvation.wake")) == ["a", "b", "c"]
    assert set(store_redis.hkeys("perpetual:starving")) == {"a", "b", "c"}
