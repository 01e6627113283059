"""One pass of the starvation ladder: the facts that its steps share, and what they have done."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery_perpetual.starvation.consumers import Consumers


@dataclass(slots=True)
class Climb:
    """One pass. Times are ms of the store's clock."""

    now: int = 0
    watched_since: int = 0
    """Since when passes follow each other."""
    consumers: Consumers = field(default_factory=Consumers)
    """The workers."""
    noticed: list[str] = field(default_factory=list)
    """Queues of which it was reported that they wait."""
    woken: list[str] = field(default_factory=list)
    """Queues whose workers were asked to open their consumers anew."""
    spawned: list[str] = field(default_factory=list)
    """Queues for which more workers were asked for."""
    starving: dict[str, str] = field(default_factory=dict)
    """Queues in which the oldest item waits for longer than the first step allows, and why."""
    starved: list[str] = field(default_factory=list)
    """Ids of items that were reported."""
    parked: list[str] = field(default_factory=list)
    """Ids of items."""

    @property
    def items(self) -> int:
        """How many items were reported and parked."""
        return len(self.starved) + len(self.parked)
