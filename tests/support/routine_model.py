"""A small model of a routine: what its record must say after each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from celery_perpetual.ledger.ids import item_slots
from celery_perpetual.store.scripts import script

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

WHICH = st.integers(0, 99)
BUSY, TERMINAL = {"running", "retry_waiting"}, {"completed", "exhausted", "cancelled"}
EVERY, BACKOFF = 1000, 300


@dataclass
class Modelled:
    """A routine as it must be by now; times are ms after the start of the test."""

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


def end_run(store: Store, run: str, status: str) -> str | None:
    """The end of a run through the script, as a worker stores it; returns what follows and is to be done now."""
    keys, where = store.keys, item_slots(store.keys, run)
    poll = str(where["poll"])
    reply = script("end_item")(
        store, **where, id=run, batch=keys.poll(poll), batch_channel=keys.channel(poll), status=status, head="",
        completion=keys.completion(run), queue=keys.queue(run), channel=keys.channel(run), nonce="", started=0, tag="",
        hold="back_off", result="", value="", expires=0, unacked="unacked", unacked_index="unacked_index",
    )  # fmt: skip
    return reply[1].decode() if isinstance(reply[1], bytes) else None
