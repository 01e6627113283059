"""One maintenance pass of the leader, every ``perpetual_cycle_interval`` seconds.

Relay what others left unpublished, sweep records whose commit never came, forget pauses that are over and units that
nobody has known for a week. The error of one step never stops the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from celery.utils.log import get_logger

from celery_perpetual.beat.leadership import Leadership
from celery_perpetual.beat.orphans import drop_orphans
from celery_perpetual.beat.roster import Roster
from celery_perpetual.completions import relay_batch_done
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.ledger import sweep_staged
from celery_perpetual.polling import Pauses, Runner
from celery_perpetual.store import Store

logger = get_logger(__name__)


class Cycle(threading.Thread):
    """Runs the passes while this process leads."""

    def __init__(
        self,
        store: Store,
        leadership: Leadership,
        roster: Roster,
        runner: Runner,
        interval: float,
    ) -> None:
        super().__init__(name="perpetual-cycle", daemon=True)
        self._leadership = leadership
        self._interval = interval
        self._halt = threading.Event()
        pauses = Pauses(store, runner.events_maxlen)
        self._steps: dict[str, Callable[[], object]] = {
            "relay": runner.publisher.relay,
            "staged": lambda: sweep_staged(store),
            "pauses": pauses.trim,
            "batches": lambda: relay_batch_done(runner.app, store),
            "orphans": lambda: drop_orphans(store, roster.units.keys() | roster.disabled),
        }

    def halt(self) -> None:
        """Start no further pass."""
        self._halt.set()

    def run(self) -> None:
        while not self._halt.is_set():
            if not self._leadership.leads:
                self._halt.wait(0.05)
                continue
            self.once()
            self._halt.wait(self._interval)

    def once(self) -> None:
        """One pass."""
        for name, step in self._steps.items():
            try:
                step()
            except StoreUnavailable as error:
                logger.warning("perpetual: cycle step %s cannot reach the store: %s", name, error)
            except Exception:
                logger.exception("perpetual: cycle step %s failed", name)
