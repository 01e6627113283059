"""The leader, the store's identity, and what the base scheduler has run."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


class Identity(NamedTuple):
    """Which store this is, and what would be missed if it came back empty."""

    epoch: str | None
    with_cursor: set[str]
    """Units that have a cursor."""
    paused: set[str]
    """Scopes that are paused."""
    mark: int
    """The last mark of the beat that asks, 0 where there is none."""


class Mark:
    """The last mark that a beat has left in the store. Where the store does not have it, it has gone back."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0
        """Milliseconds of the store's time, or more; only grows. 0 = none yet."""

    def was_left(self, value: int) -> None:
        """The store has it; answers may come in any order."""
        self.value = max(self.value, value)


#: A standby leaves a mark twice a second; one that lets others go first, after three seconds. A mark that lies further
#: ahead was left while the store's clock was ahead, by a beat that may be dead.
STANDBY_MS, AHEAD_MS = 5_000, 1_000


def has_standby(store: Store, owner: str) -> bool:
    """Whether a beat other than this one has been in contact just now."""
    with store.errors("standby beats"):
        seconds, micros = store.redis.time()
        now = int(seconds) * 1000 + int(micros) // 1000
        recent = store.redis.zrangebyscore(store.keys.marks, now - STANDBY_MS, now + AHEAD_MS, 0, 2)
    return any(beat.decode() != owner for beat in recent)


def leader_info(store: Store) -> dict[str, Any] | None:
    """The facts that the living leader has stored about itself, None if no beat leads."""
    with store.errors("leader"):
        info = store.redis.get(store.keys.leader_info)
    return json.loads(info) if info else None


class Lead(NamedTuple):
    """The store's facts on the lead."""

    info: dict[str, Any] | None
    """The facts that the living leader has stored about itself, None if no beat leads."""
    since: int | None
    """When its term began, ms of the store's time; terms are numbered by that, unless one was shorter than that."""
    last_contact: int | None
    """The newest mark of any beat, leading or not: about when it was in contact last, ms; None after a day."""


def lead(store: Store) -> Lead:
    """These facts. Redis refuses even to read within a transaction when it is full, so it is none."""
    keys = store.keys
    with store.errors("leader"):
        pipe = store.redis.pipeline(transaction=False)
        pipe.get(keys.leader_info)
        pipe.get(keys.leader)
        pipe.zrange(keys.marks, -1, -1, withscores=True)
        info, value, marks = pipe.execute()
    term = value.rpartition(b":")[2] if value else b""
    return Lead(
        json.loads(info) if info else None, int(term) if term.isdigit() else None, int(marks[0][1]) if marks else None
    )


def newest_mark(store: Store, host: str) -> int | None:
    """The newest mark of a beat of one machine, ms of the store's time; None where none was in contact for a day."""
    with store.errors("marks"):
        marks = store.redis.zrange(store.keys.marks, 0, -1, desc=True, withscores=True)
    return next((int(at) for owner, at in marks if owner.decode().partition("/")[0] == host), None)


def ask_for_lead(store: Store, owner: str, *, ttl_ms: int) -> None:
    """Ask the leader to hand over, unless another beat has asked already."""
    with store.errors("hand-over"):
        store.redis.set(store.keys.handover, owner, px=ttl_ms, nx=True)


def identity(store: Store, owner: str) -> Identity:
    """These facts, of one moment, for a beat."""
    keys = store.keys
    with store.errors("memory"):
        pipe = store.redis.pipeline()
        pipe.get(keys.epoch)
        pipe.smembers(keys.cursors)
        pipe.hkeys(keys.paused)
        pipe.zscore(keys.marks, owner)
        epoch, units, paused, mark = pipe.execute()
    return Identity(
        None if epoch is None else epoch.decode(),
        {unit.decode() for unit in units},
        {name.decode() for name in paused},
        int(mark or 0),
    )


def note_loss(store: Store, unit: str, epoch: str) -> None:
    """Write down that a unit is paused because its cursor was lost before this epoch."""
    with store.errors("memory"):
        store.redis.hset(store.keys.unit(unit), "lost", epoch)


def noted_loss(store: Store, unit: str) -> str | None:
    """The epoch of that note."""
    with store.errors("memory"):
        epoch = store.redis.hget(store.keys.unit(unit), "lost")
    return None if epoch is None else str(epoch.decode())


@dataclass(frozen=True, slots=True)
class EntryRun:
    """The last run of an entry of the base scheduler."""

    at: float
    """Seconds since 1970, by the clock of the beat that sent it."""
    count: int
    """Its runs so far, with this one; 0 where it was only seen, and the time is that of the first sight."""

    def to_text(self) -> str:
        """As it is stored."""
        return f"{self.at!r} {self.count}"

    @classmethod
    def of(cls, text: str) -> EntryRun | None:
        """The inverse of :meth:`to_text`, None where it is no such text."""
        try:
            at, count = text.split()
            run = cls(float(at), int(count))
        except ValueError:
            return None
        return run if math.isfinite(run.at) else None


def entry_runs(store: Store) -> dict[str, EntryRun]:
    """The last run of each entry of the base scheduler."""
    with store.errors("base runs"):
        stored = store.redis.hgetall(store.keys.base)
    runs = {name.decode(): EntryRun.of(run.decode(errors="replace")) for name, run in stored.items()}
    return {name: run for name, run in runs.items() if run is not None}
