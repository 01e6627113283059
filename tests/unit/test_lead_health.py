"""How long a beat leads whose base scheduler does not do its work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.beat import lead_health
from celery_perpetual.beat.lead_health import LeadHealth

if TYPE_CHECKING:
    import pytest


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def times_of_stepping_down(
    health: LeadHealth, clock: Clock, seconds: int, *, has_standby: bool = False, batches_fail: bool = False
) -> list[float]:
    """When it steps down, if it is asked each second."""
    begun, found = clock.now, []
    for _ in range(seconds):
        clock.now += 1
        if batches_fail:
            health.published(OSError("no route"))
        if health.why_to_step_down(lambda: has_standby) is not None:
            found.append(clock.now - begun)
    return found


def test_a_sole_beat_whose_tick_hangs_leads_twice_as_long_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tasks are polled meanwhile: each time that it steps down gives up the polls that run."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.tick_begins()

    assert times_of_stepping_down(health, clock, 130) == [31, 37, 49, 73, 121]
    health.tick_ended()
    assert health.trouble is None
    health.tick_begins()
    assert times_of_stepping_down(health, clock, 40) == [31, 37]


def test_batches_that_cannot_be_published_are_left_to_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sole beat goes on; beside another one it steps down, ever later, until it has published something."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.published(OSError("no route"))

    assert times_of_stepping_down(health, clock, 30, batches_fail=True) == []
    assert health.trouble == "batches cannot be published: OSError: no route"
    assert times_of_stepping_down(health, clock, 1, has_standby=True) == [1]
    assert health.trouble is None
    health.tick_ended()
    assert times_of_stepping_down(health, clock, 12, has_standby=True, batches_fail=True) == [7]
    health.lead_begins()
    assert health.trouble is None
    health.published(OSError("no route"))
    health.published()
    assert times_of_stepping_down(health, clock, 30, has_standby=True) == []
    health.tick_ended()
    assert times_of_stepping_down(health, clock, 5, has_standby=True, batches_fail=True) == [4]


def test_a_batch_that_failed_once_is_tried_again_before_the_lead_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again seconds later; a broker that was away for a moment costs no lead."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.published(OSError("no route"))

    assert times_of_stepping_down(health, clock, 30, has_standby=True) == []
    assert health.trouble is not None
    health.published(OSError("no route"))
    assert times_of_stepping_down(health, clock, 1, has_standby=True) == [1]


def test_a_clock_that_hangs_is_left_to_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sole beat runs its entries all the same, and does not step down."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.turn_begins()

    assert times_of_stepping_down(health, clock, 60) == []
    assert health.trouble == "a turn of the clock has not returned for 60 s"
    assert times_of_stepping_down(health, clock, 20, has_standby=True) == [1, 7, 19]
    health.turn_ended()
    assert health.trouble is None
    health.turn_begins()
    assert times_of_stepping_down(health, clock, 30, has_standby=True) == []


def test_a_good_tick_is_no_reason_for_patience_while_the_clock_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two beats whose clocks hang would hand the lead to and fro every few seconds."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.turn_begins()
    found = []
    for second in range(60):
        clock.now += 1
        health.tick_begins()
        health.tick_ended()
        if health.why_to_step_down(lambda: True) is not None:
            found.append(second + 1)

    assert found == [31, 37, 49]


def test_one_fault_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that failed once, and is not tried again as the clock fails, says nothing of the clock."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()
    health.published(OSError("no route"))
    why = None
    for _ in range(4):
        clock.now += 1
        assert why is None
        health.turn_ended(RuntimeError("can't start new thread"))
        why = health.why_to_step_down(lambda: True)

    assert why == "the clock fails: RuntimeError: can't start new thread"
    health.kept(OSError("read-only file"))
    clock.now += 1
    health.turn_ended(RuntimeError("can't start new thread"))
    clock.now += 1
    health.turn_ended(RuntimeError("can't start new thread"))
    assert health.trouble == why


def test_a_clock_that_fails_is_left_to_a_standby(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process has no thread left, say; one failure is no reason."""
    clock = Clock()
    monkeypatch.setattr(lead_health, "time", clock)
    health = LeadHealth()

    def turn(error: Exception | None) -> str | None:
        clock.now += 1
        health.turn_begins()
        health.turn_ended(error)
        return health.why_to_step_down(lambda: True)

    no_thread = RuntimeError("can't start new thread")
    assert [turn(error) for error in (no_thread, None, no_thread, None)] == [None] * 4
    assert [turn(no_thread) for _ in range(5)] == [
        None, None, None, "the clock fails: RuntimeError: can't start new thread", None,
    ]  # fmt: skip
