"""The result of one maintenance pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from celery_perpetual.json_fields import JsonFields

#: Fields that count what was done.
COUNTED = (
    "swept", "restored", "missed", "resent", "relayed", "unstaged", "routines_started", "batches", "orphans",
    "forgotten",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleResult(JsonFields):
    """The result of one pass."""

    started_at: datetime
    """The store's time."""
    seconds: float
    """How long it took."""
    busy: bool = False
    """Another pass was under way, so this one did nothing."""
    paused: bool = False
    """Everything is paused, so nothing was done about starvation."""
    workers: int = 0
    """Workers that live."""
    running: int = 0
    """Executions under a lease."""
    open_batches: int = 0
    """Batches of which an item has not ended."""
    needs_attention: int = 0
    """Tasks that are parked, all of them."""
    swept: int = 0
    """Leases of dead workers that were taken."""
    restored: int = 0
    """Messages put back that dead workers had received and not begun."""
    missed: int = 0
    """Items whose message was in no place any more."""
    resent: int = 0
    """Tasks sent again."""
    resent_ids: tuple[str, ...] = ()
    """Their ids, of the first hundred."""
    held_until: datetime | None = None
    """Until when no lease expires, because the store was away."""
    relayed: int = 0
    """Items of committed batches that were published."""
    unstaged: int = 0
    """Polls whose records were removed, because their commit never came."""
    routines_started: int = 0
    """Runs of due routines."""
    batches: int = 0
    """Ends of which the follow-up was done: the message of a batch, or the next step of a routine."""
    starving: Mapping[str, str] = field(default_factory=dict)
    """Queues in which an item waits too long, and why: ``no_consumer`` or ``saturated``."""
    noticed: tuple[str, ...] = ()
    """Queues of which that was reported now."""
    woken: tuple[str, ...] = ()
    """Queues whose workers were asked to open their consumers anew."""
    spawned: tuple[str, ...] = ()
    """Queues for which more workers were asked for."""
    starved_ids: tuple[str, ...] = ()
    """Items that were reported as starved."""
    parked_ids: tuple[str, ...] = ()
    """Items that were parked because their queue has no consumer."""
    orphans: int = 0
    """Units that were forgotten."""
    pulled_back: int = 0
    """Routines whose times were stored while the store's clock was ahead."""
    forgotten: int = 0
    """Routines that had ended long ago and were removed."""
    alerts: int = 0
    """Alerts that have begun or ended."""
    put_off: Mapping[str, str] = field(default_factory=dict)
    """Polls for which something is left to do and failed the last time, and why; they are tried again, ever later."""
    errors: Mapping[str, str] = field(default_factory=dict)
    """Type and text of the error of each step that failed."""

    @property
    def ok(self) -> bool:
        """Whether every step went through."""
        return not self.errors

    @property
    def counts(self) -> dict[str, int]:
        """The counts that :meth:`~celery_perpetual.Perpetual.stats` adds up."""
        own = {name: getattr(self, name) for name in COUNTED}
        return own | {
            "noticed": len(self.noticed), "woken": len(self.woken), "spawned": len(self.spawned),
            "starved": len(self.starved_ids), "parked": len(self.parked_ids), "errors": len(self.errors),
        }  # fmt: skip
