"""A small model of a routine: what its record must say after each step."""

from __future__ import annotations

from dataclasses import dataclass

EVERY, BACKOFF = 1000, 300


@dataclass
class Modelled:
    """What a routine must be by now; times are ms after the start of the test."""

    id: str
    once: bool
    catch_up: bool
    start: int
    next: int | None
    most: int
    state: str = "active"
    slot: int | None = None
    run: str = ""
    began: int = 0
    attempts: int = 0
    inline: bool = False
    """Its caller runs it, and has died."""

    def due(self, at: int) -> bool:
        return self.state in ("active", "retry_waiting") and self.next is not None and self.next <= at

    def starts(self, run: str, at: int) -> None:
        if self.state == "active":
            self.slot = self.next
        self.state, self.next, self.run, self.began, self.attempts = "running", None, run, at, self.attempts + 1

    def ends(self, *, well: bool) -> None:
        self.run, self.inline = "", False
        if not well and self.attempts < self.most:
            self.state, self.next = "retry_waiting", self.began + BACKOFF
            return
        if self.once:
            self.state, self.next = ("completed" if well else "exhausted"), None
            self.attempts = 0 if well else self.attempts
            return
        assert self.slot is not None
        after = self.slot if self.catch_up else max(self.slot, self.began)
        self.state, self.attempts = "active", 0
        self.next = self.start + ((after - self.start) // EVERY + 1) * EVERY
