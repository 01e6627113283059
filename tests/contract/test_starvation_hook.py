"""The starvation ladder's wish for more workers: the hook is called once, off the tick, and "cannot" is no error."""

from __future__ import annotations

import time
from threading import Event
from typing import TYPE_CHECKING, Any

from celery_perpetual import PerpetualOptions
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.starvation import assistance, queue_steps
from tests.support import wait_until
from tests.support.contract import report
from tests.support.ladder import QUICK, Beat, steps

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest
    import redis

    from celery_perpetual import Perpetual


def test_a_hook_that_cannot_or_hangs_is_no_error(
    shop: Callable[..., Perpetual], store_redis: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again later, a hanging one not before it has returned, and the ladder goes on meanwhile."""
    monkeypatch.setattr(queue_steps, "AGAIN_MS", 100)
    monkeypatch.setattr(assistance, "LONGEST_HOOK", 0.2)
    calls, goes_on = [], Event()

    def scale(**_: Any) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("no quota")
        assert goes_on.wait(20)

    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": QUICK, "perpetual_starvation_spawn": scale})
    perpetual.poll("deliver")
    beat = Beat(perpetual)
    began = time.monotonic()
    wait_until(lambda: beat.once().parked_ids, "the ladder goes on")

    assert time.monotonic() - began < 10
    assert len(calls) == 2
    assert steps(store_redis).count("spawn") >= 2
    assert all(each.seconds < 2 for each in beat.results)
    goes_on.set()


def test_a_hook_that_fails_while_the_store_is_away_is_called_once_more(shop: Callable[..., Perpetual]) -> None:
    """That nothing came of it is kept until the store has it."""
    noted: list[tuple[str, str]] = []
    is_away = [True]

    def came_of(request: assistance.Request, trouble: str) -> None:
        if is_away[0]:
            raise StoreUnavailable("it is away")
        noted.append((request.queue, trouble))

    def scale(**_: Any) -> None:
        raise RuntimeError("no quota")

    helps = assistance.Assistance(shop(list).app, scale, 0, lambda _: True, came_of)
    request = assistance.Request(
        step="spawn", queue="a", hosts=(), oldest_seconds=1, cause="no_consumer", episode="a", noted=1
    )
    helps.ask([request])
    helps.ask([])
    assert noted == []
    is_away[0] = False
    wait_until(lambda: helps.ask([]) or noted, "it is noted")
    assert noted == [("a", "the hook raised RuntimeError: no quota")]


def test_setting_starvation(shop: Callable[..., Perpetual]) -> None:
    """A step follows when an item has waited for so long."""
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": {"notice": 0.05}})
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle().noticed == ("celery",), "it is noticed long before two minutes are over")


def test_setting_starvation_spawn(shop: Callable[..., Perpetual]) -> None:
    """It is called with what is known of the queue."""
    calls: list[dict[str, Any]] = []
    perpetual = shop(
        lambda: [(1,)],
        {
            "perpetual_starvation": dict.fromkeys(("notice", "wake", "spawn"), 0.05),
            "perpetual_starvation_spawn": lambda **facts: calls.append(facts),
        },
    )
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle() and calls, "it is called")
    assert {name: calls[0][name] for name in ("queue", "waiting", "cause")} == {
        "queue": "celery", "waiting": 1, "cause": "no_consumer",
    }  # fmt: skip


def test_setting_max_pool_grow(shop: Callable[..., Perpetual]) -> None:
    """Workers that have enough to do are asked to grow; that they do is shown in ``test_silent_consumers.py``."""
    thresholds = {"notice": 0.05, "wake": None, "spawn": 0.05}
    perpetual = shop(lambda: [(1,)], {"perpetual_starvation": thresholds, "perpetual_max_pool_grow": 2})
    perpetual.poll("deliver")
    report(perpetual, 1, active=1)

    wait_until(lambda: perpetual.cycle().spawned == ("celery",), "they are asked")


def test_option_starvation(shop: Callable[..., Perpetual]) -> None:
    """The option of a task counts for it instead of ``perpetual_starvation``."""
    own = PerpetualOptions(starvation={"notice": 0.05})
    perpetual = shop(lambda: [(1,)], perpetual_options=own)
    perpetual.poll("deliver")

    wait_until(lambda: perpetual.cycle().noticed == ("celery",), "it is noticed long before two minutes are over")
