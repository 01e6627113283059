"""The steps of a maintenance pass: their order, and that the error of one stops no other."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.beat.cycle_result import CycleResult
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.ledger.ids import new_poll_id
from celery_perpetual.tasks.discovery import load
from tests.support import wait_until
from tests.support.contract import begin, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from celery_perpetual import Perpetual

#: In this order, as docs/operating.md says.
ORDER = [
    "sweep", "relay", "routines_due", "batches", "results", "staged", "counts", "starvation", "pauses", "states", "orphans",
    "routines", "alerts", "clock",
]  # fmt: skip
#: The effect of each step in the world below; the others find nothing to do there.
EFFECTS: dict[str, Callable[[CycleResult, redis.Redis], bool]] = {
    "sweep": lambda found, _: (found.swept, found.resent) == (1, 1),
    "relay": lambda found, _: found.relayed == 100,
    "routines_due": lambda found, _: found.routines_started == 1,
    "staged": lambda found, _: found.unstaged == 1,
    "counts": lambda found, _: found.open_batches >= 1,
    "starvation": lambda found, _: found.noticed == ("celery",),
    "pauses": lambda _, client: not client.hlen("perpetual:paused"),
    "orphans": lambda found, _: found.orphans == 1,
    "alerts": lambda found, _: found.alerts >= 1,
}


@pytest.fixture
def work(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> Perpetual:
    """A namespace in which most steps have something to do."""
    rows: list[tuple[int]] = [(-1,)]
    perpetual = shop(lambda: rows, {"perpetual_starvation": {"notice": 5}})
    perpetual.app.task(name="report", shared=False)(nothing)
    waiting, long_ago = perpetual.poll("deliver").poll_id, perpetual.store.now() - 10_000
    store_redis.hset(f"perpetual:p:{waiting}", "pub_at", long_ago)
    store_redis.zadd("perpetual:open", {waiting: long_ago})
    rows[:] = [(n,) for n in range(600)]
    outcome = perpetual.poll("deliver")
    begin(perpetual, outcome.task_ids[0])
    for worker in store_redis.zrange("perpetual:workers", 0, -1):
        store_redis.zadd("perpetual:workers", {worker: 1})
    store_redis.ltrim("celery", 101, -1)
    store_redis.hset(f"perpetual:p:{outcome.poll_id}", "pub", 500)
    store_redis.zadd("perpetual:outbox", {outcome.poll_id: 1})
    perpetual.routines.create(id="now", task="report", every=3600)
    store_redis.zadd("perpetual:staged", {f"{new_poll_id(perpetual.store.now())} perpetual:deliver": 1})
    store_redis.hset("perpetual:paused", "tenant:acme", '{"until_ms": 1, "until": "1970-01-01T00:00:00Z"}')
    store_redis.zadd("perpetual:units", {"perpetual:gone": 1})
    store_redis.hset("perpetual:u:perpetual:deliver", "attempt", 7)
    store_redis.zadd("perpetual:due", {"perpetual:deliver": perpetual.store.now()})
    return perpetual


@pytest.mark.parametrize("error", [ValueError("broken"), StoreUnavailable("away")], ids=["error", "store"])
@pytest.mark.parametrize("broken", ORDER)
def test_the_error_of_a_step_stops_no_other(
    work: Perpetual, store_redis: redis.Redis, broken: str, error: Exception
) -> None:
    """The result names the step, and ``stats`` has its error; what the others had to do is done, in their order."""
    cycle, ran = Cycle(work, lambda: load(work.app)), list[str]()

    def watched(name: str, step: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            ran.append(name)
            if name == broken:
                raise error
            return step()

        return run

    steps = cycle._steps  # what breaks in them is code of others, and a store that goes away
    usual = dict(steps)
    steps |= {name: watched(name, step) for name, step in usual.items()}
    found = cycle.once()

    assert ran == ORDER
    assert found.errors == {broken: f"{type(error).__name__}: {error}"}
    assert not found.ok
    done = {name: effect(found, store_redis) for name, effect in EFFECTS.items() if name != broken}
    assert [name for name, is_done in done.items() if not is_done] == []
    stats = work.stats()
    assert (stats.cycles, stats.errors) == (1, 1)
    assert stats.last_error is not None
    assert stats.last_error["step"] == broken

    steps |= usual
    if broken in EFFECTS:
        wait_until(lambda: EFFECTS[broken](cycle.once(), store_redis), f"the next pass does what {broken} has left")


def test_a_step_that_fails_is_a_finding_until_it_succeeds(
    shop: Callable[..., Perpetual], store_redis: redis.Redis
) -> None:
    """A key of the broker has another type: check and why name the step and the error."""
    perpetual = shop(lambda: [(1,)])
    perpetual.poll("deliver")
    store_redis.set("unacked", "written by hand")

    def found() -> list[str]:
        evidence = [each.evidence for each in (*perpetual.check(), *perpetual.why("deliver").reasons)]
        return [each for each in evidence if "maintenance pass failed" in each]

    perpetual.cycle()
    assert len(found()) == 2
    assert all(each.startswith("the step sweep of ") and "WRONGTYPE" in each for each in found())
    store_redis.delete("unacked")
    perpetual.cycle()
    assert found() == []


def test_two_threads_share_no_pass(shop: Callable[..., Perpetual], store_redis: redis.Redis) -> None:
    """The second one returns at once, also where the lock in the store has expired during a long step."""
    perpetual, entered, goes_on = shop(list), threading.Event(), threading.Event()

    def known() -> Any:
        entered.set()
        assert goes_on.wait(20)
        return load(perpetual.app)

    cycle, found = Cycle(perpetual, known), list[CycleResult]()
    thread = threading.Thread(target=lambda: found.append(cycle.once(is_alone=True)))
    thread.start()
    try:
        assert entered.wait(20)
        store_redis.delete("perpetual:cycle")
        entered.clear()
        assert cycle.once().busy
        assert not entered.is_set()
    finally:
        goes_on.set()
        thread.join(30)
    assert [(each.busy, each.ok) for each in found] == [(False, True)]
    assert not cycle.once().busy
