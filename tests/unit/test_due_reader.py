"""When the store is asked which units are due."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from celery_perpetual.beat import due
from celery_perpetual.beat.due import DueReader
from celery_perpetual.polling.claims import Due

if TYPE_CHECKING:
    import pytest


class Times:
    """Units that are due at these times, ms; the store's clock and this process's are one."""

    def __init__(self, *times: int) -> None:
        self.times, self.now, self.reads = sorted(times), 0, 0

    def monotonic(self) -> float:
        return self.now / 1000

    def due(self, leader: str, limit: int) -> tuple[int, int | None, list[Due]]:
        self.reads += 1
        due = [at for at in self.times if at <= self.now][:limit]
        del self.times[: len(due)]
        found = [Due(f"unit {at}", at, None, "", suspect=False) for at in due]
        return self.now, self.times[0] if self.times else None, found


def test_units_that_come_due_together_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one is not kept waiting; those that follow it within a moment come with one read, and none is early."""
    units: Any = Times(100, 104, 108, 130, 150, 400)
    monkeypatch.setattr(due, "time", units)
    reader, seen = DueReader(units), dict[int, int]()

    for now in range(450):
        units.now = now
        found = reader.take("me:1", 10, 0.5, 0.04)
        seen |= {row.at: now for row in found.rows}
        reader.claimed([SimpleNamespace(following="3600000") for _ in found.rows])  # type: ignore[misc]

    assert (seen[100], seen[400], len(seen)) == (100, 400, 6)
    assert all(0 <= now - at <= 41 for at, now in seen.items())
    assert units.reads == 5


def test_a_unit_that_was_not_claimed_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says when it is due; what was not read is read at once; and then it is known that nothing is due."""
    units: Any = Times(*range(30))
    units.now = 50
    monkeypatch.setattr(due, "time", units)
    reader = DueReader(units)

    reader.take("me:1", 2, 0.5, 0.04)
    assert reader.pause == 0.0
    while reader.take("me:1", 16, 0.5, 0.04).rows:
        reader.claimed([SimpleNamespace(following="3600000")])  # type: ignore[list-item]
    reads = units.reads
    reader.take("me:1", 2, 0.5, 0.04)

    assert (reads, units.reads, units.times) == (3, 3, [])
