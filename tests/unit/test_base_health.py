"""How long a beat leads whose base scheduler does not do its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.beat import base_health
from celery_perpetual.beat.base_health import BaseHealth

if TYPE_CHECKING:
    import pytest


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def times_of_stepping_down(health: BaseHealth, clock: Clock, seconds: int) -> list[float]:
    """When it steps down, if it is asked each second."""
    begun, found = clock.now, []
    for _ in range(seconds):
        clock.now += 1
        if health.why_to_step_down() is not None:
            found.append(clock.now - begun)
    return found


def test_a_sole_beat_whose_tick_hangs_leads_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks are polled meanwhile: each time that it steps down gives up the polls that run."""
    clock = Clock()
    monkeypatch.setattr(base_health, "time", clock)
    health = BaseHealth()
    health.tick_begins()

    assert times_of_stepping_down(health, clock, 130) == [31, 37, 49, 73, 121]
    health.tick_ended()
    assert health.trouble is None
    health.tick_begins()
    assert times_of_stepping_down(health, clock, 40) == [31, 37]
