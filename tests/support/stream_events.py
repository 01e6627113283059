"""Events and leads of beats and polls, as seen without the package."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import redis


class PollEvent(NamedTuple):
    """A poll's outcome on the stream; times are seconds since the epoch, by the store's clock."""

    unit: str
    status: str
    slot: float
    written: float
    data: dict[str, Any]

    @property
    def lag(self) -> float:
        """Seconds from the slot to the outcome; for an enqueued batch, to its messages in the broker."""
        return self.written - self.slot


def leader(redis: redis.Redis, prefix: str = "perpetual") -> tuple[int, int] | None:
    """Return pid and term of the leader, from ``host/pid/random:term``; None if there is none."""
    value = redis.get(f"{prefix}:leader")
    if value is None:
        return None
    owner, _, term = str(value).rpartition(":")
    return int(owner.split("/")[1]), int(term)


def events(redis: redis.Redis, name: str, prefix: str = "perpetual") -> list[dict[str, Any]]:
    """The data of every event of one name, oldest first."""
    entries = redis.xrange(f"{prefix}:events")
    return [json.loads(fields["data"]) for _, fields in entries if fields["event"] == name]


def poll_events(client: redis.Redis, task: str | None = None, prefix: str = "perpetual") -> list[PollEvent]:
    """Return the outcomes of all polls, or of one task's, oldest first, each by itself."""
    found = []
    for entry, fields in client.xrange(f"{prefix}:events"):
        if fields["event"] != "poll":
            continue
        data = json.loads(fields["data"])
        if task is None or data["task"] == task:
            written = int(entry.split("-")[0]) / 1000
            found.append(PollEvent(data["unit"], data["status"], seconds(data["slot"]), written, data))
    return found


def polls_behind(found: list[PollEvent]) -> int:
    """Return how many polls the events of one unit stand for: runs of equal outcomes are folded."""
    counts = [0, *(event.data.get("repeated", 1) for event in found)]
    return sum(now - before if now > before else now for before, now in pairwise(counts))


def statuses(client: redis.Redis, task: str) -> list[str]:
    """Return how the polls of one task ended, oldest first."""
    return [event.status for event in poll_events(client, task)]


def seconds(time: str | None) -> float:
    """An RFC 3339 time as seconds since the epoch."""
    assert time is not None
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
