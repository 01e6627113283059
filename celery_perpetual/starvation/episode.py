"""How far the ladder has come with one queue, durable in the store."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING

from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery_perpetual.thresholds import Thresholds

#: Time counts for the ladder only if it was watched: not while everything is paused, and while no beat leads.
UNWATCHED_MS = 90_000

#: How old the note of the last pass may get before it is written anew.
FRESH_MS = 10_000


@dataclass(slots=True)
class Episode:
    """From the first item that waits too long in a queue, until none does any more or the cause is another one.

    Steps are counted from its beginning too: work that has waited while no leader was there to act on it, in a
    deployment that was stopped over night, is not parked in the moment in which the first beat starts.
    """

    cause: str
    began: int
    """When it began: ms of the store's time; later by the time that was not watched."""
    watched: int
    """When a pass has noted last that it saw it."""
    steps: dict[str, int] = field(default_factory=dict)
    """When each step was taken."""
    again: dict[str, int] = field(default_factory=dict)
    """From when on a step is tried once more that nothing came of."""
    done: dict[str, int] = field(default_factory=dict)
    """When what a step asks for was done."""
    name: str = ""
    """Its name, which stays."""

    @classmethod
    def read(cls, text: str) -> Episode:
        """From the store; what a later release notes besides is passed over."""
        found = json.loads(text)
        return cls(**{each.name: found[each.name] for each in fields(cls) if each.name in found})

    def to_json(self) -> str:
        """As it is stored."""
        return json.dumps(asdict(self))

    def watch(self, now: int, since: int) -> bool:
        """A pass looks at it now, one of a series without a gap that began then (ms); returns whether to note that.

        A pass sees a queue once in a round over all batches, which may be many passes.
        """
        unwatched = since - self.watched
        if unwatched > UNWATCHED_MS:
            self.began += unwatched
        if abs(now - self.watched) < FRESH_MS:
            return False
        if now < self.watched:
            self.again.clear()  # times of a store's clock that was ahead
        self.began, self.watched = min(self.began, now), now
        return True

    def is_undone(self, step: str, noted_before: int) -> bool:
        """Whether a step was noted before then (ms) and is not known to be done: its process may have died."""
        return step not in self.done and self.steps.get(step, noted_before) < noted_before

    def is_due(self, step: str, since: int, now: int, thresholds: Thresholds) -> bool:
        """Whether a step that was not taken is due, for what is runnable since then (ms)."""
        return step not in self.steps and now >= self.again.get(step, 0) and self.is_time(step, since, now, thresholds)

    def is_time(self, step: str, since: int, now: int, thresholds: Thresholds) -> bool:
        """Whether the time of a step has come."""
        threshold, first = getattr(thresholds, step), thresholds.first
        if threshold is None or first is None:
            return False
        return now >= max(since + ms(threshold), self.began + ms(threshold - first))
