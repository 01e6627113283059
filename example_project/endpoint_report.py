"""How was each endpoint treated? The receiver's record, and what celery-perpetual says."""

import sqlite3
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from receiver import PAUSE
from webhooks.models import Delivery, Endpoint
from webhooks.receipts import confirm
from webhooks.seeding import CUSTOMERS, DOWN, NO_TOKEN, PRESSED, WRONG_TOKEN, slug_of

#: How often the units are read, a tenth of a second apart, until none of them is in the middle of a poll.
TRIES = 30


@dataclass
class Treatment:
    """The deliveries of one endpoint."""

    name: str
    state: str
    reason: str | None
    asked: list[float]
    """When it was asked for receipts, by its own record; time.time()."""
    statuses: list[int]
    """Its answers."""
    polls: Counter[str]
    """How its polls ended: status, with gate or class of the error."""


@dataclass
class Treatments:
    """All endpoints, and how many deliveries they have confirmed."""

    delivered: int
    confirmed: int
    endpoints: dict[str, Treatment]

    def gaps(self) -> list[float]:
        """Seconds from each "not so fast" of the endpoint that is pressed to the next request."""
        asked, statuses = self.endpoints[PRESSED].asked, self.endpoints[PRESSED].statuses
        return [
            round(later - at, 2) for at, later, status in zip(asked, asked[1:], statuses, strict=False) if status == 429
        ]

    def complaints(self) -> list[str]:
        """Facts that should not be so."""
        found = []
        if self.confirmed != self.delivered:
            found.append(f"{self.delivered - self.confirmed} deliveries were not confirmed by their endpoints")
        found += [
            f"{name} is {self.endpoints[name].state}" for name in CUSTOMERS if self.endpoints[name].state != "active"
        ]
        down, pressed = self.endpoints[DOWN], self.endpoints[PRESSED]
        absent, wrong = self.endpoints[NO_TOKEN], self.endpoints[WRONG_TOKEN]
        if not down.polls["failed node"] or set(down.polls) != {"failed node"}:
            found.append(f"{DOWN} is down, and its polls ended as {dict(down.polls)}")
        if not (gaps := self.gaps()) or min(gaps) < PAUSE - 0.05:
            found.append(f"{PRESSED} asked for {PAUSE} s, and was asked again after {gaps}")
        if absent.asked or set(absent.polls) != {"skipped preflight"}:
            found.append(f"{NO_TOKEN} has no token, was asked {len(absent.asked)} times: {dict(absent.polls)}")
        if wrong.statuses != [401] or wrong.state != "paused":
            found.append(f"{WRONG_TOKEN} is {wrong.state} and answered {wrong.statuses} to a wrong token")
        if set(pressed.statuses) != {200, 429}:
            found.append(f"{PRESSED} answered {pressed.statuses}")
        return found

    def lines(self) -> list[str]:
        """The report."""
        down, absent, wrong = self.endpoints[DOWN], self.endpoints[NO_TOKEN], self.endpoints[WRONG_TOKEN]
        asked_again = ", ".join(f"{gap:.1f}" for gap in self.gaps())
        return [
            f"{self.confirmed} of {self.delivered} deliveries are confirmed by receipts of their endpoints.",
            f"  {DOWN} is down: {down.polls.total()} polls failed, further and further apart; it is {down.state}.",
            f"  {PRESSED} said 429 with Retry-After: {PAUSE}, and was asked again {asked_again} s later.",
            f"  {NO_TOKEN} has given no token: its preflight failed, and it was asked {len(absent.asked)} times.",
            f"  {WRONG_TOKEN} refused the token: asked {len(wrong.asked)} time, then {wrong.state}.",
        ]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        endpoints = {
            name: {"state": each.state, "reason": each.reason, "asked": len(each.asked), "polls": dict(each.polls)}
            for name, each in self.endpoints.items()
        }
        return {"delivered": self.delivered, "confirmed": self.confirmed, "gaps": self.gaps(), "endpoints": endpoints}


def read_treatments(record: Path) -> Treatments:
    """From the receiver's record, the table and the store."""
    from outbox_site.celery import perpetual

    units = units_between_polls()
    asked = read_asked(record)
    found = {}
    for name in Endpoint.objects.order_by("pk").values_list("name", flat=True):
        unit, polls = units[name], Counter[str]()
        for poll in perpetual.polls(confirm, name, limit=1000):
            polls[f"{poll.status} {poll.gate or poll.error_class or ''}".rstrip()] += poll.repeated
        times = asked.get(slug_of(name), [])
        found[name] = Treatment(
            name, unit.state, unit.reason, [at for at, _ in times], [status for _, status in times], polls
        )
    done = Delivery.objects.filter(state=Delivery.State.DELIVERED)
    return Treatments(done.count(), done.exclude(confirmed_at=None).count(), found)


def units_between_polls() -> dict[str, Any]:
    """The units by tenant. While a poll is under way its unit is active, however the last one has ended."""
    from outbox_site.celery import perpetual

    for _ in range(TRIES):
        units = {unit.tenant: unit for unit in perpetual.units() if unit.task == confirm.name}
        if not any(u.state == "active" and u.last_poll and u.last_poll.status == "failed" for u in units.values()):
            break
        time.sleep(0.1)
    return units


def read_asked(record: Path) -> dict[str, list[tuple[float, int]]]:
    """Time and status of each request for receipts, by endpoint."""
    db = sqlite3.connect(f"file:{record}?mode=ro", uri=True)
    try:
        rows = db.execute("SELECT endpoint, at, status FROM asked ORDER BY at").fetchall()
    finally:
        db.close()
    found: dict[str, list[tuple[float, int]]] = {}
    for endpoint, at, status in rows:
        found.setdefault(endpoint, []).append((at, status))
    return found
