"""How long a process waits for the store where a time limit goes on meanwhile."""

from __future__ import annotations

import time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from celery_perpetual.leases.execution import Execution
from celery_perpetual.leases.time_limits import first_limit, time_to_ask, time_to_end
from celery_perpetual.store.connection import SHORTEST_CALL, STEPS, Store
from celery_perpetual.times import steady
from tests.support.scripts import store_at


@pytest.mark.parametrize(
    ("of_task", "of_message", "first"),
    [
        ((None, None), None, None), ((None, None), (None, None), None), ((9, None), None, 9), ((9, 4), None, 4),
        ((2, None), (8, None), 8), ((2, 1), (None, 7), 2), ((2, 1), [8, None], 1), ((0, 0), None, None),
        ((Decimal("1.5"), None), None, 1.5), (("3", None), None, 3), (("soon", None), None, None),
        ((float("nan"), 6), None, 6), ((-1, None), None, None), ((5, None), (1,), None), ((5, None), 7, None),
    ],
)  # fmt: skip
def test_the_first_limit_is_the_one_that_the_pool_counts(of_task: Any, of_message: Any, first: float | None) -> None:
    """Limits of the message replace those of the task; what is no limit is none, and nothing raises."""
    task = SimpleNamespace(time_limit=of_task[0], soft_time_limit=of_task[1])

    assert first_limit(task, of_message) == first


def test_parts_of_a_limit() -> None:
    """Before the body a quarter of it, after the body half of what is left, and never less than nothing."""
    asked = Execution(task_id="a", limit=8.0, granted_at=steady() - 6)
    assert time_to_ask(asked) == 2
    assert time_to_end(asked) == pytest.approx(1, abs=0.1)
    without_lease = Execution(task_id="b", limit=8.0, since=time.monotonic() - 4)
    assert time_to_end(without_lease) == pytest.approx(2, abs=0.1)
    assert time_to_end(Execution(task_id="c", limit=8.0, since=time.monotonic() - 60)) == 0
    assert time_to_ask(Execution(task_id="d")) is time_to_end(Execution(task_id="d")) is None


@pytest.mark.parametrize("timeout", [0.05, 0.5, 5, 60])
def test_connections_for_less_time_are_few_and_wait_no_longer(timeout: float) -> None:
    """Connects nowhere; at most one set of connections for each halving."""
    store = store_at("redis://127.0.0.1:1", timeout=timeout).clone(patient=False)
    assert store.within(None) is store.within(timeout) is store.within(10 * timeout) is store

    hurried = set[Store]()
    for step in range(400):
        seconds = timeout * step / 400
        chosen = store.within(seconds)
        hurried.add(chosen)
        assert chosen.timeout <= store.timeout
        assert chosen.timeout * STEPS <= max(seconds, SHORTEST_CALL) + 1e-9 or chosen is store
        assert chosen.timeout * STEPS > min(seconds, timeout) / 2 - 1e-9
    assert len(hurried) <= 12
    assert store.within(0.7 * timeout) is store.within(0.8 * timeout)
    store.close()
