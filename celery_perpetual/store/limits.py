"""The settings that scripts need, as scripts get them: durations are whole milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

from celery_perpetual.settings import Settings
from celery_perpetual.times import ms


@dataclass(frozen=True, slots=True)
class Limits:
    """How long the store keeps what; every name but three is that of a ``perpetual_*`` setting."""

    events_maxlen: int
    completion_ttl: int
    queue_ttl: int
    tombstone_ttl: int
    lease_ttl: int
    tombstone_days: int
    """How many whole days of tombstones there are."""
    gap: int
    """The longest silence in which the store counts as reachable: two heartbeats or two cycles."""
    reporting: int
    """How long every worker that lives needs, at most, to report to a store that has come back."""

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        """The limits of these settings."""
        gap = 2 * max(settings.heartbeat, settings.cycle_interval)
        return cls(
            events_maxlen=settings.events_maxlen,
            completion_ttl=ms(settings.completion_ttl),
            queue_ttl=ms(settings.queue_ttl),
            tombstone_ttl=ms(settings.tombstone_ttl),
            lease_ttl=ms(settings.lease_ttl),
            tombstone_days=round(settings.tombstone_ttl // 86400),
            gap=ms(gap),
            # A heartbeat tries ever again, and a try takes no longer than the time-out.
            reporting=ms(gap + min(settings.lease_ttl, 2 * settings.store_timeout)),
        )
