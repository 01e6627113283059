"""Schedules of the user's own: their code may raise or hang, and that is a matter of their routine alone."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from celery.schedules import BaseSchedule

from celery_perpetual import InvalidRoutine
from celery_perpetual.routines import asking
from tests.support.routines import after

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.routines import World


class Moody(BaseSchedule):
    """Every minute, if it likes."""

    mood = "well"
    calm = threading.Event()

    def remaining_estimate(self, last_run_at: datetime) -> timedelta:  # Celery's own
        if self.mood == "raises":
            raise RuntimeError("no idea")
        if self.mood == "hangs":
            self.calm.wait(30)
        return timedelta(minutes=1)


@pytest.fixture(autouse=True)
def moods(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(asking, "LONGEST_ANSWER", 0.3)
    monkeypatch.setattr(Moody, "mood", "well")
    Moody.calm.clear()
    yield
    Moody.calm.set()


@pytest.mark.parametrize(("mood", "says"), [("raises", "RuntimeError: no idea"), ("hangs", "within 0.3 seconds")])
def test_a_schedule_that_does_not_answer_pauses_its_routine(
    world: World, now: datetime, monkeypatch: pytest.MonkeyPatch, mood: str, says: str
) -> None:
    """Runs so far count, the reason is on record, others go on; when the schedule answers again, it can be resumed."""
    for name in ("first", "second"):
        world.create(schedule=Moody(), next_run_at=after(now, -1), id=name)
    world.create(every=60, start_at=now, id="other")
    monkeypatch.setattr(Moody, "mood", mood)

    assert [run.status for run in world.run()] == ["success"] * 3

    for name in ("first", "second"):
        found = world.routines.get(name)
        assert (found.state, found.run_count, found.next_run_at) == ("paused", 1, None)
        assert found.pause is not None
        assert found.pause["by"] == "celery-perpetual"
        assert says in found.pause["reason"]
        assert "Moody" in found.to_dict()["schedule"]["schedule"]
    assert world.routines.get("other").next_run_at == after(now, 60_000)
    with pytest.raises(InvalidRoutine, match=says):
        world.routines.resume("first")
    with pytest.raises(InvalidRoutine, match=says):
        world.create(schedule=Moody())
    assert len(world.routines.list()) == 3

    monkeypatch.setattr(Moody, "mood", "well")
    at = world.routines.resume("first").next_run_at
    assert at is not None
    assert at > now
