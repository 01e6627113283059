"""Tasks that wait for a full queue are passed over without a look at them, and do not keep others from being sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.broker.destinations import Destination
from celery_perpetual.recovery import full_queues
from celery_perpetual.recovery.full_queues import FullQueues

if TYPE_CHECKING:
    import pytest

FULL = Destination("", "full", None)


def test_a_task_that_has_waited_waits_on_while_its_queue_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task is tried when the time is over; those behind it need not be read to know where they go."""
    now = [1000.0]
    monkeypatch.setattr(full_queues.time, "monotonic", lambda: now[0])
    full, entries = FullQueues(), [("a", 1.0), ("b", 2.0), ("other", 3.0)]
    for task_id in ("a", "b"):
        full.note(task_id, FULL)
    assert full.without_waiting(entries) == [("other", 3.0)]

    now[0] += full_queues.PATIENCE + 1
    assert full.without_waiting(entries) == entries
    assert not full.keeps_waiting("a")
    full.note("a", FULL)  # the broker has refused it once more
    assert full.keeps_waiting("b")
    assert not full.keeps_waiting("other")
    assert full.without_waiting(entries) == [("other", 3.0)]


def test_tasks_that_are_off_the_list_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The list bounds the memory."""
    full = FullQueues()
    full.note("a", FULL)
    assert full.without_waiting([]) == []
    assert (full.waiting, full.keeps_waiting("a")) == (0, False)
