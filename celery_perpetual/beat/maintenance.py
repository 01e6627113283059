"""One maintenance pass of the leader, every ``perpetual_cycle_interval`` seconds.

Relay what others left unpublished, sweep records whose commit never came, forget pauses that are over and units that
nobody has known for a week. A standby only remembers the store. The error of one step never stops the next.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from celery_perpetual import events
from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.orphans import Orphans
from celery_perpetual.beat.roster import Roster
from celery_perpetual.completions.batches import relay_batch_done
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.ledger.staged import sweep_staged
from celery_perpetual.pauses import Pauses
from celery_perpetual.polling.runner import Runner
from celery_perpetual.recovery.sweep import Sweep
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit


class Maintenance(threading.Thread):
    """Runs the passes while this process leads."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        roster: Roster,
        runner: Runner,
        sweep: Sweep,
        interval: float,
        remember: Callable[[], object],
    ) -> None:
        super().__init__(name="perpetual-cycle", daemon=True)
        self._leadership = leadership
        self._interval = interval
        self._halt = threading.Event()
        self._remember = remember
        pauses = Pauses(store)
        self._steps: dict[str, Callable[[], object]] = {
            "relay": runner.publisher.relay,
            "staged": lambda: sweep_staged(store),
            "pauses": pauses.trim,
            "sweep": sweep.once,
            "batches": lambda: relay_batch_done(runner.app, store),
            "orphans": Orphans(store, lambda: roster.units.keys() | roster.disabled).drop,
        }

    def halt(self) -> None:
        """Start no further pass."""
        self._halt.set()

    def run(self) -> None:
        while not self._halt.is_set():
            leading = self._leadership.leads
            self._once({"memory": self._remember, **(self._steps if leading else {})})
            deadline = time.monotonic() + self._interval
            while time.monotonic() < deadline and not self._halt.is_set() and leading == self._leadership.leads:
                self._halt.wait(0.1)

    def _once(self, steps: Mapping[str, Callable[[], object]]) -> None:
        for name, step in steps.items():
            try:
                step()
            except StoreUnavailable as error:
                emit(events.STORE_UNREACHABLE, part=f"step {name} of the cycle", error=error)
            except Exception as error:
                emit(events.CYCLE_STEP_FAILED, step=name, error=error)
