"""Passes of the starvation ladder, as a beat makes them."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.tasks.discovery import load

if TYPE_CHECKING:
    import redis

    from celery_perpetual import Perpetual
    from celery_perpetual.beat.cycle_result import CycleResult


QUICK = {"notice": 0.2, "wake": 0.4, "spawn": 0.6, "event": 0.8, "park": 1.2}


NEVER = dict.fromkeys(QUICK)


class Beat:
    """Passes as a beat makes them; a new one remembers nothing."""

    def __init__(self, perpetual: Perpetual) -> None:
        self._cycle = Cycle(perpetual, lambda: load(perpetual.app))
        self.results: list[CycleResult] = []

    def passes(self, seconds: float) -> list[CycleResult]:
        """Make passes for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.once()
            time.sleep(0.02)
        return self.results

    def once(self) -> CycleResult:
        """Make one pass, in which no step fails."""
        self.results.append(self._cycle.once())
        assert self.results[-1].errors == {}
        return self.results[-1]


def steps(client: redis.Redis) -> list[str]:
    """Which steps the stream has, in their order."""
    entries = client.xrange("perpetual:events")
    return [fields["event"].split(".")[1] for _, fields in entries if fields["event"].startswith("starvation.")]


def earlier(value: Any, by: int) -> Any:
    """A note of the ladder, with all of its times so many ms earlier."""
    if isinstance(value, dict):
        return {name: earlier(each, by) for name, each in value.items()}
    return value - by if isinstance(value, int) and value > 10**12 else value
