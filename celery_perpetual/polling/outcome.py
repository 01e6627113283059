"""How a poll ended."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import lru_cache
from operator import attrgetter
from typing import Any

from celery_perpetual.ledger.ids import item_id
from celery_perpetual.store.commands.units import stored_outcomes
from celery_perpetual.store.connection import Store
from celery_perpetual.times import format_time, parse_time

ENQUEUED, EMPTY, SKIPPED, DEFERRED, PAUSED = "enqueued", "empty", "skipped", "deferred", "paused"
FAILED, TIMED_OUT, ABANDONED, SUPERSEDED = "failed", "timed_out", "abandoned", "superseded"

#: A unit that is not polled any more is forgotten after this time.
HISTORY_TTL_MS = 30 * 24 * 3600 * 1000

_quoted = json.encoder.encode_basestring_ascii

#: Runs of these are folded into one record with a count.
FOLDED = (EMPTY, SKIPPED)


@dataclass(frozen=True, slots=True, kw_only=True)
class PollOutcome:
    """The stored outcome of one poll. Times are aware datetimes of the store's clock."""

    poll_id: str
    unit: str
    task: str
    tenant: str | None = None
    """Name of the tenant."""
    slot: datetime
    trigger: str
    status: str
    """``enqueued, empty, skipped, deferred, paused, failed, timed_out, abandoned`` or ``superseded``."""
    count: int = 0
    """Items enqueued."""
    duplicates: int = 0
    """Items left out because their key was in flight, or twice in the batch."""
    held_back: int = 0
    """Items left out because their key has failed: until its back-off is over, or parked."""
    left_out: int = 0
    """Items that did not fit; they are offered again by the next poll."""
    gate: str | None = None
    """The gate that was closed, for ``skipped``: ``max_in_flight``, ``busy`` …"""
    value: float | None = None
    """The value that the gate measured."""
    limit: float | None = None
    """The value that it allows."""
    reason: str | None = None
    error: str | None = None
    """Type and message of what was raised."""
    error_class: str | None = None
    """``node``, ``service``, ``degraded``, ``permanent``, or a class of the project's own."""
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
        return _sign(self.status, self.gate, self.reason) if self.status in FOLDED else ""

    def to_dict(self, *, task_ids: bool = True) -> dict[str, Any]:
        """The outcome as JSON values; times are RFC 3339 UTC. The ids follow from ``poll_id`` and ``count``."""
        values = {name: getattr(self, name) for name in _NAMES}
        for name in _TIMES:
            if values[name] is not None:
                values[name] = format_time(values[name])
        if task_ids:
            values["task_ids"] = self.task_ids
        return values

    def to_json(self) -> str:
        """As the stream gets it: the fields of :meth:`to_dict` but the cursor, and ``at``, in an order of its own."""
        finished = format_time(self.finished_at)
        own = object_of_texts({
            "poll_id": self.poll_id, "unit": self.unit, "task": self.task, "slot": format_time(self.slot),
            "started_at": format_time(self.started_at), "finished_at": finished, "at": finished,
        })  # fmt: skip
        return f"{own[:-1]}, {_shared_text(*_shared(self))}"


def object_of_texts(texts: Mapping[str, str]) -> str:
    """JSON of an object of texts as ``json`` writes it, in half the time; its names have nothing to escape."""
    return "{" + ", ".join([f'"{name}": {_quoted(text)}' for name, text in texts.items()]) + "}"


_NAMES = tuple(field.name for field in fields(PollOutcome))
_TIMES = ("slot", "started_at", "finished_at", "watermark")


#: The facts that most polls have in common; their text is not made anew for each poll.
_SHARED = tuple(
    name for name in _NAMES if name not in ("poll_id", "unit", "task", "slot", "started_at", "finished_at", "cursor")
)
_shared = attrgetter(*_SHARED)


@lru_cache(256, typed=True)
def _shared_text(*values: Any) -> str:
    shown = [format_time(value) if isinstance(value, datetime) else value for value in values]
    return json.dumps(dict(zip(_SHARED, shown, strict=True)))[1:]


@lru_cache(256)
def _sign(*facts: str | None) -> str:
    return json.dumps(facts)


def from_entry(entry: bytes | str) -> PollOutcome:
    """An outcome from its entry ``{repeated} {first at} {sign}\\n{JSON}`` in a unit's list."""
    head, _, text = (entry if isinstance(entry, str) else entry.decode()).partition("\n")
    values = {name: value for name, value in json.loads(text).items() if name in _NAMES}
    for name in _TIMES:
        if values.get(name) is not None:
            values[name] = parse_time(values[name])
    return replace(PollOutcome(**values), repeated=int(head.split(" ", 1)[0]))


def outcomes(store: Store, unit: str, limit: int) -> list[PollOutcome]:
    """The newest ``limit`` outcomes of a unit."""
    return [from_entry(entry) for entry in stored_outcomes(store, unit, limit)]
