"""Celery's own schedule behind our scheduler: what is done at each tick, and when a change of it is seen."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.beat import Scheduler

from celery_perpetual import Perpetual, PerpetualScheduler
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from celery import Celery

DAY = {"task": "app.entry", "schedule": 86_400}
#: Due sooner than any tick is late.
SOON = {"task": "app.entry", "schedule": 0.3}


@pytest.fixture
def beat(make_app: Callable[..., Celery], tmp_path: Path) -> Iterator[PerpetualScheduler]:
    """At work in this process, with two thousand entries of a day, the heap of which is made."""
    app = make_app(beat_schedule={f"entry-{n}": DAY for n in range(2000)})
    Perpetual(app)
    scheduler = PerpetualScheduler(app, schedule_filename=str(tmp_path / "schedule"))
    try:
        assert scheduler.tick() == pytest.approx(0.5)
        yield scheduler
    finally:
        scheduler.close()


def goes_by_it(beat: PerpetualScheduler) -> bool:
    return beat.tick() < 0.31


def test_entries_are_not_compared_at_every_tick(beat: PerpetualScheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor where nothing happens for seconds: the share of the time is bounded."""
    compared: list[Any] = []
    original = Scheduler.schedules_equal

    def spy(self: Scheduler, *schedules: Any) -> bool:
        compared.append(schedules)
        return original(self, *schedules)

    monkeypatch.setattr(Scheduler, "schedules_equal", spy)
    for _ in range(500):
        beat.tick()

    assert len(compared) <= 2


def test_changes_are_seen(beat: PerpetualScheduler) -> None:
    """At the next tick by Celery's own methods, with another number of entries, or another schedule; else in a while."""
    beat.update_from_dict({"entry-1": SOON})
    assert goes_by_it(beat)
    beat.update_from_dict({"entry-1": DAY})
    assert not goes_by_it(beat)

    beat.add(name="added", **SOON)
    assert goes_by_it(beat)
    del beat.schedule["added"]
    assert not goes_by_it(beat)

    changed = dict(beat.schedule)
    changed["entry-2"] = beat.Entry(name="entry-2", app=beat.app, **SOON)
    beat.schedule = changed
    assert goes_by_it(beat)

    # Replaced in place: seen when it is due at the latest, so what is gone is not sent.
    changed["entry-2"] = beat.Entry(name="entry-2", app=beat.app, **DAY)
    time.sleep(0.35)
    assert beat.tick() == 0
    assert not goes_by_it(beat)
    assert changed["entry-2"].total_run_count == 0
    changed["entry-3"] = beat.Entry(name="entry-3", app=beat.app, **SOON)
    wait_until(lambda: goes_by_it(beat), "an entry that was replaced in place", 10)
