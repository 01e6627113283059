"""Gates: what may keep a claimed poll from calling ``next_batch``.

A gate is a function of the claim; it reads nothing from the store and runs no user code. The poll ends as ``skipped``
with the first one that is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from celery_perpetual.polling.claims import Claim


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """A gate that is closed: what it measured, and what it allows."""

    gate: str
    value: float
    limit: float


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


#: In the order in which they are asked.
GATES: tuple[Gate, ...] = (overlap, max_in_flight)


def first_closed(claim: Claim) -> Closed | None:
    """The first gate that is closed, or None where the poll may take place."""
    return next((closed for gate in GATES if (closed := gate(claim)) is not None), None)
