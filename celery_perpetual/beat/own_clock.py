"""The clock of beat's own machine, by which the entries of the base scheduler run."""

from __future__ import annotations

import time

from celery_perpetual.beat.entry_runs import FURTHEST_AHEAD
from celery_perpetual.times import steady


class OwnClock:
    """Notices that it is set back: last runs that were written before lie ahead then, and hold their entries up."""

    def __init__(self) -> None:
        self._ahead: float | None = None
        """The most by which it was ahead of the steady clock since it was set back last, in seconds."""

    def is_set_back(self) -> bool:
        """Whether it was set back by more than a minute since the last call that said so, in one step or in several."""
        ahead = time.time() - steady()
        is_back = self._ahead is not None and ahead < self._ahead - FURTHEST_AHEAD
        self._ahead = ahead if is_back or self._ahead is None else max(ahead, self._ahead)
        return is_back
