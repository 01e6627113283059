"""First polls of many units do not come at once, and their slots stay as far apart."""

from __future__ import annotations

import pytest
from celery import Celery

from celery_perpetual import PerpetualTask
from celery_perpetual.beat.registration import _spread
from celery_perpetual.tasks.contract import read
from celery_perpetual.tasks.unit import TaskUnit
from tests.support.contract import nothing


@pytest.mark.parametrize(
    ("units", "every", "seconds"),
    [
        (20, 150, 0),
        (21, 150, 10),
        (10_000, 150, 10),
        (50_000, 150, 50),
        (50_000, 30, 30),
        (300_000, 150, 150),
        (100, 2, 2),
    ],
)
def test_over_ten_seconds_or_one_for_each_thousand(units: int, every: float, seconds: float) -> None:
    """But never over more than the interval; the same on every beat."""
    app = Celery("shop", set_as_current=False)
    task = app.task(name="work", base=PerpetualTask, shared=False, poll_every=every, next_batch=list)(nothing)
    contract = read(task)
    some = [TaskUnit(contract, str(n), n) for n in range(1000)]
    found = sorted(_spread(unit, units) for unit in some)

    assert found == sorted(_spread(unit, units) for unit in some)
    assert 0 <= found[0] <= found[-1] <= seconds * 1000
    assert abs(found[500] - seconds * 500) <= seconds * 50
