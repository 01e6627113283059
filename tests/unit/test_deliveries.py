"""The deliveries that a worker reports after its connection was lost."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from celery_perpetual.completions.waiting_ends import OwnEnds, SharedEnds
from celery_perpetual.worker import deliveries

POOL = SimpleNamespace(_pool=SimpleNamespace(_pool=[SimpleNamespace(pid=1), SimpleNamespace(pid=2)]))


@pytest.fixture(autouse=True)
def empty() -> Iterator[None]:
    yield
    deliveries.forget_all()


def received(task_id: str, **facts: Any) -> None:
    deliveries.enter(task_id, SimpleNamespace(id=task_id, is_held=False, **facts))


def test_only_what_was_on_its_way_to_a_child_may_run_there() -> None:
    """A task whose child has died is not claimed for as long as the other children live."""
    received("on its way", acknowledged=False)
    received("its child has died", acknowledged=True)

    deliveries.connection_lost(POOL)

    held = {"on its way", "its child has died"}
    assert deliveries.unseen(held, POOL) == {"on its way"}
    assert not deliveries.is_here("its child has died")
    assert deliveries.unseen(held, SimpleNamespace()) == set()


def test_a_task_whose_end_waits_is_here_until_it_is_stored() -> None:
    """Also where the connection is lost: its message is acknowledged with the end."""
    shared = SharedEnds()
    ends = OwnEnds(lambda: shared)
    received("ended", acknowledged=True)
    ends.enter("ended")

    deliveries.connection_lost(POOL, deliveries.waiting(shared, POOL))
    assert [each.id for each in deliveries.at_hand(deliveries.waiting(shared, POOL))] == ["ended"]
    ends.remove("ended")
    assert deliveries.at_hand(deliveries.waiting(shared, POOL)) == []
    assert not deliveries.is_here("ended")
