"""How often the leader has polled each task, for those who show it elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from celery_perpetual.polling.claims import Claim


class PollCounts:
    """Polls per task since they were taken last. May be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[int, float]] = {}

    def note(self, claims: Sequence[Claim]) -> None:
        """Count polls that begin now."""
        if claims:
            now = time.time()
            with self._lock:
                for claim in claims:
                    name = claim.unit.contract.name
                    self._counts[name] = (self._counts.get(name, (0, 0.0))[0] + 1, now)

    def take_back(self, claims: Sequence[Claim]) -> None:
        """Polls that were counted have not begun after all; what has been taken meanwhile remains counted."""
        with self._lock:
            for claim in claims:
                name = claim.unit.contract.name
                count, at = self._counts.pop(name, (0, 0.0))
                if count > 1:
                    self._counts[name] = (count - 1, at)

    def take(self) -> dict[str, tuple[int, float]]:
        """Number of polls and time of the last one (seconds since 1970) by task; they are counted from 0 again."""
        with self._lock:
            taken, self._counts = self._counts, {}
        return taken
