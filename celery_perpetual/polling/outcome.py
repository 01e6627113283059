"""How a poll ended."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from typing import Any

from celery_perpetual.ledger import item_id

ENQUEUED, EMPTY, SKIPPED, DEFERRED, PAUSED = "enqueued", "empty", "skipped", "deferred", "paused"
FAILED, TIMED_OUT, ABANDONED, SUPERSEDED = "failed", "timed_out", "abandoned", "superseded"

#: Runs of these are folded into one record with a count.
FOLDED = (EMPTY, SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollOutcome:
    """The stored outcome of one poll. Times are aware datetimes of the store's clock."""

    poll_id: str
    unit: str
    task: str
    tenant: str | None = None
    slot: datetime
    trigger: str
    status: str
    """``enqueued, empty, skipped, deferred, paused, failed, timed_out, abandoned`` or ``superseded``."""
    count: int = 0
    """Items enqueued."""
    duplicates: int = 0
    """Items left out because their key was in flight, or twice in the batch."""
    left_out: int = 0
    """Items that did not fit; they are offered again by the next poll."""
    gate: str | None = None
    """What was closed, for ``skipped``: ``max_in_flight``, ``busy`` …"""
    value: float | None = None
    """What the gate measured."""
    limit: float | None = None
    """What it allows."""
    reason: str | None = None
    error: str | None = None
    """Type and message of what was raised."""
    cursor: Any = None
    """The unit's cursor after this poll, where the poll moved it."""
    watermark: datetime | None = None
    """How far the source had been read, as the batch said."""
    started_at: datetime
    finished_at: datetime
    repeated: int = 1
    """How many polls in a row ended in just this way; the record is of the latest."""

    @property
    def task_ids(self) -> list[str]:
        """Ids of the enqueued tasks, in order."""
        return [item_id(self.poll_id, index) for index in range(self.count)]

    @property
    def ok(self) -> bool:
        """False for a poll that failed or timed out."""
        return self.status not in (FAILED, TIMED_OUT)

    @property
    def sign(self) -> str:
        """Equal signs in a row are folded; "" is never folded."""
        return f"{self.status} {self.gate or ''} {self.reason or ''}" if self.status in FOLDED else ""

    def to_dict(self, *, task_ids: bool = True) -> dict[str, Any]:
        """The outcome as JSON values; times are RFC 3339 UTC. The ids follow from ``poll_id`` and ``count``."""
        values = {field.name: _plain(getattr(self, field.name)) for field in fields(self)}
        return values | ({"task_ids": self.task_ids} if task_ids else {})

    def to_json(self) -> str:
        """As it is stored and put on the stream."""
        return json.dumps(self.to_dict(task_ids=False) | {"at": _plain(self.finished_at)})


_NAMES = {field.name for field in fields(PollOutcome)}


def from_entry(entry: bytes) -> PollOutcome:
    """An outcome from its entry ``{repeated} {first at} {sign}\\n{JSON}`` in a unit's list."""
    head, _, text = entry.partition(b"\n")
    values = {name: value for name, value in json.loads(text).items() if name in _NAMES}
    for name in ("slot", "started_at", "finished_at", "watermark"):
        if values.get(name) is not None:
            values[name] = parse_time(values[name])
    return replace(PollOutcome(**values), repeated=int(head.split(b" ", 1)[0]))


def parse_time(text: str) -> datetime:
    """An RFC 3339 time as an aware datetime."""
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def format_time(at: datetime) -> str:
    """An aware datetime as RFC 3339 in UTC, with milliseconds."""
    return at.astimezone(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    return format_time(value) if isinstance(value, datetime) else value
