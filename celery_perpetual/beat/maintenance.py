"""The thread of a beat that runs a maintenance pass every ``perpetual_cycle_interval`` seconds while it leads.

A standby only remembers which units have a cursor, for the case that the store is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from celery_perpetual import events
from celery_perpetual.beat.cycle import Cycle
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.telemetry import emit


class Maintenance(threading.Thread):
    """Runs the passes."""

    def __init__(self, cycle: Cycle, leadership: Leadership, interval: float, remember: Callable[[], object]) -> None:
        super().__init__(name="perpetual-cycle", daemon=True)
        self._cycle = cycle
        self._leadership = leadership
        self._interval = interval
        self._remember = remember
        self._halt = threading.Event()

    def halt(self) -> None:
        """Start no further pass."""
        self._halt.set()

    def run(self) -> None:
        while not self._halt.is_set():
            leading = self._leadership.leads
            try:
                self._remember()
                if leading:
                    self._cycle.once()
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part="the cycle", error=error)
            except Exception as error:
                emit(events.CYCLE_STEP_FAILED, step="memory", error=error)
            deadline = time.monotonic() + self._interval
            while time.monotonic() < deadline and not self._halt.is_set() and leading == self._leadership.leads:
                self._halt.wait(0.1)
