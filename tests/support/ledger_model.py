"""A model of one unit's ledger."""

from __future__ import annotations

from dataclasses import dataclass, field

from celery import Celery

from celery_perpetual import PerpetualOptions, PerpetualTask
from celery_perpetual.ledger.ids import item_id
from celery_perpetual.tasks.discovery import discover
from celery_perpetual.tasks.unit import TaskUnit

UNIT, QUEUE = "perpetual:deliver", "queue"
ROOM = 1010
HOUR = 3_600_000


def unit(window: float) -> TaskUnit:
    app = Celery("shop", set_as_current=False)
    options = PerpetualOptions(dedup_window=window)

    @app.task(name="deliver", base=PerpetualTask, poll_every=30, next_batch=list, max_in_flight=ROOM,
              perpetual_options=options, shared=False)  # fmt: skip
    def deliver() -> None: ...

    return TaskUnit(discover(app).tasks["deliver"])


@dataclass
class Batch:
    """A committed batch."""

    keys: list[str | None]
    published: int
    unfinished: set[int]

    @property
    def n(self) -> int:
        return len(self.keys)


@dataclass
class Claim:
    """The open claim of the unit."""

    poll: str
    by: str
    over: bool
    following: int | None
    slot: int


@dataclass
class Model:
    """A model of one unit."""

    claim: Claim | None = None
    slot: int | None = None
    cursor: str = ""
    attempt: int = 0
    ended: int = 0
    batches: dict[str, Batch] = field(default_factory=dict)
    staged: dict[str, list[str | None]] = field(default_factory=dict)
    recent: set[str] = field(default_factory=set)
    announced: set[str] = field(default_factory=set)
    queue: list[str] = field(default_factory=list)

    @property
    def in_flight(self) -> int:
        return sum(len(batch.unfinished) for batch in self.batches.values())

    @property
    def held(self) -> dict[str, str]:
        """Item keys in flight, and the tasks that hold them."""
        return {
            key: item_id(poll, index)
            for poll, batch in self.batches.items()
            for index in batch.unfinished
            if (key := batch.keys[index]) is not None
        }

    def verdict(self, by: str, slot: int, leader: str) -> str:
        open_, by_hand = self.claim, not by
        if open_ and not open_.over and open_.by in (leader, ""):
            return "busy"
        if self.slot is not None and (slot < self.slot or (slot == self.slot and not open_)):
            return "early"
        if open_ and not open_.by and not by_hand:
            return "backoff"
        return "claimed"

    def close(self) -> None:
        self.claim = None
        self.ended += 1
