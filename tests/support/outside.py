"""What polls did, as seen without the package: the events that they left, the messages in the broker."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import redis


class Message(NamedTuple):
    """A task message that waits in a queue."""

    id: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    headers: dict[str, Any]


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


def messages(client: redis.Redis, queue: str = "celery") -> list[Message]:
    """Return what waits in a queue of the Redis broker, oldest first; body and headers as Celery wrote them."""
    found = []
    for text in reversed(client.lrange(queue, 0, -1)):
        message = json.loads(text)
        args, kwargs, _ = json.loads(base64.b64decode(message["body"]))
        headers = message["headers"]
        found.append(Message(headers["id"], headers["task"], args, kwargs, headers))
    return found


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


def statuses(client: redis.Redis, task: str) -> list[str]:
    """Return how the polls of one task ended, oldest first."""
    return [event.status for event in poll_events(client, task)]


def seconds(time: str | None) -> float:
    """An RFC 3339 time as seconds since the epoch."""
    assert time is not None
    return datetime.fromisoformat(time.replace("Z", "+00:00")).timestamp()
