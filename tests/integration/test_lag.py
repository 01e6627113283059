"""How far units are behind, as numbers, and the pages of many units."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Batch, ContractError, Item
from celery_perpetual.completions.end import TaskEnd
from tests.support.contract import begin

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.operations.lag import Lag
    from tests.support.watched_app import WatchedApp

UNIT = "perpetual:deliver"


@pytest.fixture
def one(watched_app: Callable[..., WatchedApp]) -> WatchedApp:
    return watched_app()


def lag_of(one: WatchedApp) -> Lag:
    (unit,) = one.perpetual.units()
    assert unit.lag is not None
    return unit.lag


def age(one: WatchedApp, minutes: float) -> None:
    """Make the unit's outcomes older."""
    entries = one.redis.lrange(f"perpetual:polls:{UNIT}", 0, -1)
    one.redis.delete(f"perpetual:polls:{UNIT}")
    for entry in entries:
        head, _, rest = entry.partition("\n")
        repeated, at, *sign = head.split(" ")
        older = str(int(at) - int(60_000 * minutes))
        one.redis.rpush(f"perpetual:polls:{UNIT}", "\n".join([" ".join([repeated, older, *sign]), rest]))


def test_a_unit_that_was_never_polled_is_not_behind(one: WatchedApp) -> None:
    one.task([], name="deliver")

    lag = lag_of(one)

    assert lag.to_dict() == {
        "poll_lag": None, "source_lag": None, "start_delay": None, "backlog": 0, "budget_used": None, "rate_1m": 0.0,
        "rate_15m": 0.0,
    }  # fmt: skip


def test_each_number_is_what_it_says(one: WatchedApp) -> None:
    """Backlog and start delay change with executions, rates with the age of polls, the others with polls and due time."""
    rows = [[Item((n,), key=n) for n in range(3)]]
    mark = datetime.now(timezone.utc) - timedelta(minutes=10)
    task = one.task([], name="deliver", next_batch=lambda: Batch(rows[0], watermark=mark))
    outcome = one.perpetual.poll(task)
    one.redis.hset(f"perpetual:u:{UNIT}", "spec", "every 60000 ms")

    lag = lag_of(one)
    assert (lag.backlog, lag.start_delay) == (3, None)
    assert lag.source_lag == pytest.approx(600, abs=5)
    assert lag.budget_used == pytest.approx((outcome.finished_at - outcome.started_at).total_seconds() / 60)
    assert (lag.rate_1m, lag.rate_15m) == (3 / 60, 3 / 900)
    assert lag.poll_lag == pytest.approx(0, abs=1)

    began = begin(one.perpetual, outcome.task_ids[0])
    assert began.leased
    lag = lag_of(one)
    assert lag.backlog == 2
    assert lag.start_delay is not None
    assert 0 <= lag.start_delay < 5
    one.perpetual.announcer.announce(
        TaskEnd(task_id=outcome.task_ids[0], task="deliver", status="success", nonce=began.nonce, runtime=0.01)
    )
    lag = lag_of(one)
    assert lag.backlog == 2
    assert lag.start_delay is not None

    rows[0] = []
    one.perpetual.poll(task)
    age(one, 2)
    assert (lag_of(one).rate_1m, lag_of(one).rate_15m) == (0, 3 / 900)
    age(one, 14)
    assert (lag_of(one).rate_1m, lag_of(one).rate_15m) == (0, 0)
    one.redis.zadd("perpetual:due", {UNIT: one.perpetual.store.now() - 100_000})
    assert lag_of(one).poll_lag == pytest.approx(100, abs=5)


def test_a_list_that_is_full_counts_as_far_as_it_goes_back(one: WatchedApp) -> None:
    """Of a unit that polls often, fifteen minutes do not fit into its outcomes."""
    from celery_perpetual import PerpetualOptions

    rows = iter(range(100))
    task = one.task(
        [], name="deliver", next_batch=lambda: [Item((n,), key=n) for n in [next(rows)]],
        perpetual_options=PerpetualOptions(history=5),
    )  # fmt: skip
    for _ in range(8):
        one.perpetual.poll(task)

    assert lag_of(one).rate_1m == 5 / 60
    assert lag_of(one).rate_15m == 5 / 60
    age(one, 5)
    assert lag_of(one).rate_1m == 0
    assert lag_of(one).rate_15m == pytest.approx(5 / 300, rel=0.05)


def test_pages_of_many_units_read_no_more_than_they_show(one: WatchedApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """10 000 units in pages of 500, each once and in order; a state is searched for; what is wrong is refused."""
    from celery_perpetual.operations import units as module

    tenants = [f"t{n:05}" for n in range(10_000)]
    one.task([], name="deliver", tenants=tenants)
    read: list[int] = []
    usual = module.unit_facts
    monkeypatch.setattr(
        module, "unit_facts", lambda store, names, *more: read.append(len(names)) or usual(store, names, *more)
    )

    seen: list[Any] = []
    while page := one.perpetual.units(limit=500, after=seen[-1].name if seen else None):
        seen += page
        if len(seen) >= 2000:
            break
    assert [unit.tenant for unit in seen] == tenants[: len(seen)]
    assert sum(read) == len(seen)
    one.redis.hset("perpetual:u:perpetual:deliver:t09000", mapping={"attempt": 3, "backoff": 9_000_000_000_000})
    assert [unit.tenant for unit in one.perpetual.units(state="backing_off")] == ["t09000"]
    assert [unit.name for unit in one.perpetual.units("deliver", "t00042")] == ["perpetual:deliver:t00042"]
    with pytest.raises(ContractError, match="did you mean backing_off"):
        one.perpetual.units(state="backing-off")
    with pytest.raises(ContractError, match="limit must be a whole number of at least 1"):
        one.perpetual.units(limit=0)
