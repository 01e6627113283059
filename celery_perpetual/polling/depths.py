"""The gate ``max_queue_depth``: the depth of a task's queue, read beside the clock.

A broker may be slow, so it is never asked on the clock's thread. A unit that is due waits for a reading of this moment;
if that takes long or fails, the gate is closed, and its outcome says why.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_perpetual.broker.depth import depth_of, queue_of
from celery_perpetual.errors import described
from celery_perpetual.polling.claims import Claim
from celery_perpetual.polling.gates import Closed
from celery_perpetual.tasks.contract import TaskContract

if TYPE_CHECKING:
    from celery import Celery

#: Seconds for which a reading counts.
FRESH = 1.0
#: Seconds for which a unit that is due waits for one.
PATIENCE = 1.0


@dataclass(slots=True)
class _Reading:
    begun: float = 0.0
    """When it was asked for; monotonic, 0 = never."""
    at: float = 0.0
    """When the last answer came."""
    depth: int | None = None
    queue: str = ""
    error: str = ""
    is_under_way: bool = False


class QueueDepths:
    """Depths of the queues of tasks. All but the reading itself is called on the clock's thread."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._readings: dict[str, _Reading] = {}

    def is_ready(self, contract: TaskContract) -> bool:
        """Whether :meth:`closed` can answer now; if not, a reading is under way."""
        if contract.options.max_queue_depth is None:
            return True
        now, reading = time.monotonic(), self._readings.setdefault(contract.name, _Reading())
        if reading.at and now - reading.at < FRESH:
            return True
        if not reading.is_under_way:
            reading.begun, reading.is_under_way = now, True
            thread = threading.Thread(target=self._read, args=(contract, reading), name="perpetual-depth", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left; the gate says so
                reading.queue, reading.depth, reading.error = contract.queue, None, described(error)
                reading.at, reading.is_under_way = now, False
                return True
        return now - reading.begun > PATIENCE

    def closed(self, claim: Claim) -> Closed | None:
        """The gate, if it is closed."""
        limit = claim.contract.options.max_queue_depth
        if limit is None:
            return None
        reading = self._readings.get(claim.contract.name, _Reading())
        if not reading.at or time.monotonic() - reading.at > FRESH + PATIENCE:
            reason = f"the depth of the queue {reading.queue} could not be read in time"
            return Closed(gate="max_queue_depth", value=None, limit=limit, reason=reason)
        if reading.depth is None:
            reason = f"the depth of the queue {reading.queue} could not be read: {reading.error}"
            return Closed(gate="max_queue_depth", value=None, limit=limit, reason=reason)
        if reading.depth < limit:
            return None
        return Closed(gate="max_queue_depth", value=reading.depth, limit=limit)

    def _read(self, contract: TaskContract, reading: _Reading) -> None:
        try:
            reading.queue = queue_of(self._app, contract.task)
            reading.depth = depth_of(self._app, reading.queue)
        except Exception as error:  # of a router or a transport; the gate says so
            reading.depth, reading.error = None, described(error)
        finally:
            reading.at, reading.is_under_way = time.monotonic(), False
