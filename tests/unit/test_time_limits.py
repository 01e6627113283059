"""How long a process waits for the store where a time limit goes on meanwhile."""

from __future__ import annotations

import time
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest
from celery.concurrency import get_implementation

from celery_perpetual.leases.execution import Execution
from celery_perpetual.leases.time_limits import KeptLimits, limits_kept_by, limits_of, time_to_ask, time_to_end
from celery_perpetual.store.connection import SHORTEST_CALL, STEPS, Store
from tests.support.scripts import store_at


@pytest.mark.parametrize(
    ("of_task", "of_message", "limits"),
    [
        ((None, None), None, ()), ((None, None), (None, None), ()), ((9, None), None, (9,)), ((9, 4), None, (4, 9)),
        ((2, None), (8, None), (8,)), ((2, 1), (None, 7), (2, 7)), ((2, 1), [8, None], (1, 8)), ((0, 0), None, ()),
        ((Decimal("1.5"), None), None, (1.5,)), (("3", None), None, (3,)), (("soon", None), None, ()),
        ((float("nan"), 6), None, (6,)), ((-1, None), None, ()), ((5, None), (1,), ()), ((5, None), 7, ()),
    ],
)  # fmt: skip
def test_the_limits_are_those_that_the_pool_counts(of_task: Any, of_message: Any, limits: tuple[float, ...]) -> None:
    """Limits of the message replace those of the task; what is no limit is none, and nothing raises."""
    task = SimpleNamespace(time_limit=of_task[0], soft_time_limit=of_task[1])

    assert limits_of(task, of_message, KeptLimits()) == limits


def test_a_limit_that_the_pool_does_not_keep_is_none() -> None:
    """Threads and the only thread of a worker have no limits, and greenlets the hard one alone."""
    task = SimpleNamespace(time_limit=9, soft_time_limit=4)
    limits = {
        name: limits_of(task, None, limits_kept_by(get_implementation(name)))
        for name in ("prefork", "solo", "threads", "gevent")
    }
    assert limits == {"prefork": (4, 9), "solo": (), "threads": (), "gevent": (9,)}
    assert limits_of(task, None, limits_kept_by(type("Own", (get_implementation("threads"),), {}))) == ()
    assert limits_of(task, None, limits_kept_by("elsewhere:Pool")) == (4, 9)


def test_each_part_of_a_task_gets_its_part_of_the_limit() -> None:
    """Before the body a quarter of the first; after the body half of what is left of the one that comes next."""

    def running_for(seconds: float, *limits: float) -> Execution:
        return Execution(task_id="a", limits=limits, began=time.monotonic() - seconds)

    assert time_to_ask(running_for(6, 8, 20)) == 2
    patient = Execution(task_id="b", limits=(8, 20), is_patient=True)
    assert time_to_ask(patient) == 6
    assert time_to_end(running_for(6, 8, 20)) == pytest.approx(1, abs=0.1)
    assert time_to_end(running_for(10, 8, 20)) == pytest.approx(5, abs=0.1)  # it has caught the soft one
    assert time_to_end(running_for(60, 8, 20)) is None  # nothing ends it any more
    assert time_to_ask(running_for(60)) is time_to_end(running_for(60)) is None


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
