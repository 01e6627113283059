"""The argument of ``next_batch``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from celery_perpetual.polling.rows import Rows

#: ``limit`` and ``max_in_flight`` of a task that says nothing.
MOST: Final = 10_000


class _CountedWhenRead:
    """An empty ``limit`` is filled in when it is read: a ``next_batch`` that does not read it costs no call."""

    __slots__ = ("_rows",)
    _rows: Rows

    if not TYPE_CHECKING:  # a wrong name remains an error

        def __getattr__(self, name: str) -> Any:
            if name != "limit":
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            object.__setattr__(self, "limit", self._rows.count)
            return self.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll(_CountedWhenRead):
    """One evaluation of ``next_batch``, which reads and does not mark rows.

    A test of a ``next_batch`` makes one with what it needs: ``due(Poll(limit=3))``.
    """

    task: str = ""
    """Name of the perpetual task."""
    tenant: Any = None
    """The tenant as ``tenants`` gives it: a str, an int, or a dict with a ``key``; None without a fan-out."""
    poll_id: str = ""
    slot: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    """Nominal time of this occurrence."""
    trigger: str = "manual"
    """``schedule``, or why it is off the grid: ``drain, refill, window, wait_hint, backoff, retry, defer, resume,
    nudge, manual, preview``."""
    cursor: Any = None
    """The JSON value that the last batch left, or None."""
    limit: int = MOST
    """The number of rows worth reading: the smaller of the option ``limit`` and ``room``, and as many as will be left
    out because their key is in flight, held back or parked (at most 10 000). So a query that stops there does not hide
    the rows behind. With a cursor nothing is left out, and nothing is added. Counted when it is first
    read."""
    room: int = MOST
    """How many new items fit under ``max_in_flight``."""
    attempt: int = 0
    """Polls of this unit that failed in a row, 0 at first."""
    late_by: float = 0.0
    """Seconds between the slot and this poll."""
    last_polled_at: datetime | None = None
    """When the unit's last poll ended."""
    keys: Callable[[], set[str]] = field(default=set, repr=False)
    """The item keys of this unit that are left out anyway (in flight, held back or parked), for a query that excludes
    them: ``poll.keys()``. Read when called."""


def count_when_read(poll: Poll, rows: Rows) -> Poll:
    """Empty the limit of a poll."""
    object.__delattr__(poll, "limit")
    object.__setattr__(poll, "_rows", rows)
    return poll
