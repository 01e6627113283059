"""The settings that scripts need, as scripts get them: durations are whole milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from celery_perpetual.settings import Settings
from celery_perpetual.times import ms


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the store keeps what; every name but two is that of a ``perpetual_*`` setting."""

    events_maxlen: int
    completion_ttl: int
    queue_ttl: int
    tombstone_ttl: int
    lease_ttl: int
    tombstone_days: int
    """How many whole days of tombstones there are."""
    gap: int
    """The longest silence in which the store counts as reachable: two heartbeats or two cycles."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """What these settings say."""
        return cls(
            events_maxlen=settings.events_maxlen,
            completion_ttl=ms(settings.completion_ttl),
            queue_ttl=ms(settings.queue_ttl),
            tombstone_ttl=ms(settings.tombstone_ttl),
            lease_ttl=ms(settings.lease_ttl),
            tombstone_days=round(settings.tombstone_ttl // 86400),
            gap=ms(2 * max(settings.heartbeat, settings.cycle_interval)),
        )
