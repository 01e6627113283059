"""Progress of the demo while it runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Snapshot:
    """One look at the table and at the store; `in_flight` is None while the store cannot be asked."""

    items: int
    delivered: int
    failed: int
    in_flight: int | None
    confirmed: int  # by their endpoints

    @property
    def is_over(self) -> bool:
        return self.pending == 0 and not self.in_flight and self.confirmed == self.delivered

    @property
    def pending(self) -> int:
        return self.items - self.delivered - self.failed

    def text(self, rate: float) -> str:
        in_flight = "?" if self.in_flight is None else self.in_flight
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.pending} pending, {in_flight} in flight, {self.confirmed} confirmed, {rate:.0f}/s{failed}"


class Rate:
    """Deliveries per second over the last few seconds."""

    def __init__(self, span: float = 5.0) -> None:
        self._span = span
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, delivered: int) -> float:
        now = time.monotonic()
        self._seen.append((now, delivered))
        while self._seen[0][0] < now - self._span:
            self._seen.popleft()
        then, before = self._seen[0]
        return (delivered - before) / (now - then) if now > then else 0.0


class Display(AbstractContextManager["Display"], Protocol):
    def show(self, snapshot: Snapshot) -> None: ...


class Lines(AbstractContextManager["Lines"]):
    """One line every few seconds, and only if something changed: fit for a log file."""

    def __init__(self, every: float = 2.0) -> None:
        self._every = every
        self._rate = Rate()
        self._next = 0.0
        self._last: Snapshot | None = None

    def show(self, snapshot: Snapshot) -> None:
        rate = self._rate.add(snapshot.delivered)
        now = time.monotonic()
        if snapshot == self._last or (now < self._next and snapshot.pending):
            return
        self._next, self._last = now + self._every, snapshot
        print(f"  {snapshot.delivered}/{snapshot.items} delivered, {snapshot.text(rate)}", flush=True)

    def __exit__(self, *exc: object) -> None:
        return None


class Bar(AbstractContextManager["Bar"]):
    """A live progress bar, drawn by rich."""

    def __init__(self, rich_progress: Any) -> None:
        self._rate = Rate()
        self._progress = rich_progress.Progress(
            rich_progress.TextColumn("[bold]delivered"),
            rich_progress.BarColumn(),
            rich_progress.MofNCompleteColumn(),
            rich_progress.TimeElapsedColumn(),
            rich_progress.TextColumn("{task.fields[text]}"),
        )
        self._bar = self._progress.add_task("deliveries", total=None, text="")

    def __enter__(self):
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def show(self, snapshot: Snapshot) -> None:
        text = snapshot.text(self._rate.add(snapshot.delivered))
        self._progress.update(self._bar, total=snapshot.items, completed=snapshot.delivered, text=text)


def open_display() -> Display:
    """The bar if there is a terminal to draw on and rich to draw with."""
    if sys.stdout.isatty():
        try:
            from rich import progress as rich_progress
        except ImportError:
            pass
        else:
            return Bar(rich_progress)
    return Lines()
