"""What ``next_batch`` is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One evaluation of ``next_batch``. It reads; it does not mark rows."""

    task: str
    """Name of the perpetual task."""
    tenant: str | None = None
    """The tenant, or None without a fan-out."""
    poll_id: str
    slot: datetime
    """Nominal time of this occurrence."""
    trigger: str
    """``schedule``, or why it is off the grid: ``drain, backoff, retry, defer, resume, nudge, manual, preview``."""
    cursor: Any
    """The JSON value that the last batch left, or None."""
    limit: int
    """The number of rows worth reading: the smaller of ``limit`` and ``max_in_flight``."""
    room: int
    """How many new items fit under ``max_in_flight``."""
    attempt: int
    """Polls of this unit that failed in a row, 0 at first."""
    late_by: float
    """Seconds between the slot and this poll."""
    last_polled_at: datetime | None
    """When the unit's last poll ended."""
    keys: Callable[[], set[str]] = field(repr=False)

    def in_flight_keys(self) -> set[str]:
        """Item keys of this unit that are not finished, for a query that leaves them out. Read when called."""
        return self.keys()
