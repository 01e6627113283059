"""Gates: what may keep a claimed poll from calling ``next_batch``.

A gate is a function of the claim; it reads nothing from the store and runs no user code. The poll ends as ``skipped``
with the first one that is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from celery_perpetual.polling.claims import Claim
from celery_perpetual.times import format_time, to_datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A gate that is closed: what it measured, and what it allows."""

    gate: str
    value: float | None
    limit: float | None
    reason: str | None = None
    until: int | None = None
    """When the unit is polled next, instead of at its next slot; ms of the store's time."""
    hint: int = 0
    """How long its source has just asked to be left alone, ms; 0: it has not."""


Gate = Callable[[Claim], "Closed | None"]


def max_in_flight(claim: Claim) -> Closed | None:
    """Closed while there is no room for a single item."""
    return full(claim, claim.in_flight) if claim.in_flight >= claim.contract.max_in_flight else None


def full(claim: Claim, value: int) -> Closed:
    """The room is used up, or would be by this batch."""
    return Closed(gate="max_in_flight", value=value, limit=claim.contract.max_in_flight)


def overlap(claim: Claim) -> Closed | None:
    """Closed with ``overlap="skip"`` while an item of an earlier batch has not ended."""
    if claim.contract.options.overlap == "allow" or claim.in_flight == 0:
        return None
    return Closed(gate="overlap", value=claim.in_flight, limit=0)


def window(claim: Claim) -> Closed | None:
    """Closed outside the hours of the task, but for polls by hand; the unit is polled when they begin."""
    hours = claim.contract.options.window
    if hours is None or claim.by_hand or (opens := hours.opens(claim.now)) is None:
        return None
    reason = f"the window {hours} opens at {format_time(to_datetime(opens))}"
    return Closed(gate="window", value=(opens - claim.now) / 1000, limit=0, reason=reason, until=opens)


#: In the order in which they are asked.
GATES: tuple[Gate, ...] = (window, overlap, max_in_flight)


def first_closed(claim: Claim) -> Closed | None:
    """The first gate that is closed, or None where the poll may take place."""
    if claim.quiet_until:
        wait = (claim.quiet_until - claim.now) / 1000
        reason = f"the source has asked to be left alone until {format_time(to_datetime(claim.quiet_until))}"
        return Closed(gate="wait_hint", value=wait, limit=0, reason=reason, until=claim.quiet_until)
    for gate in GATES:
        if (closed := gate(claim)) is not None:
            return closed
    return None
