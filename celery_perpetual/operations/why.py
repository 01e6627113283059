"""Why a unit is quiet, or not."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from celery_perpetual.operations.units import Unit
from celery_perpetual.polling.outcome import PollOutcome, outcomes
from celery_perpetual.store.commands.failed_keys import held_of_unit
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.commands.leases import parked_tasks
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store
    from celery_perpetual.tasks.contract import TaskContract

#: Polls in a row that brought nothing but duplicates, before it is worth saying.
MANY_DUPLICATES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """One fact that explains the unit's behaviour."""

    evidence: str
    meaning: str
    help: str = ""
    """The command that helps, if one does."""

    def to_dict(self) -> dict[str, str]:
        """As JSON values."""
        return {"evidence": self.evidence, "meaning": self.meaning, "help": self.help}


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A unit, what explains it, and its newest outcomes."""

    unit: Unit
    reasons: tuple[Reason, ...]
    polls: tuple[PollOutcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "unit": self.unit.to_dict(),
            "reasons": [reason.to_dict() for reason in self.reasons],
            "polls": [poll.to_dict(task_ids=False) for poll in self.polls],
        }


def explain(store: Store, contract: TaskContract, unit: Unit) -> Explanation:
    """Explain a unit from what is stored; asks no worker and no broker."""
    polls = outcomes(store, unit.name, 10)
    reasons = [
        *_about_leader(store), *_about_state(unit), *_about_room(contract, unit), *_about_parked(store, contract),
        *_about_held_keys(store, unit), *_about_polls(unit, polls),
    ]  # fmt: skip
    if not reasons:
        when = "at its next slot" if unit.next_poll_at is None else f"at {format_time(unit.next_poll_at)}"
        reasons = [
            Reason(
                evidence=f"state {unit.state}", meaning=f"nothing keeps it from being polled; its next poll is {when}"
            )
        ]
    return Explanation(unit=unit, reasons=tuple(reasons), polls=tuple(polls))


def _about_leader(store: Store) -> list[Reason]:
    if leader_info(store) is not None:
        return []
    return [
        Reason(
            evidence="no beat holds the lead",
            meaning="nothing is polled until a beat runs",
            help="celery -A proj beat",
        )
    ]


def _about_state(unit: Unit) -> list[Reason]:
    if unit.state == "paused":
        command = f"celery -A proj perpetual resume --task {_named(unit)}"
        held = unit.pause.text if unit.pause is not None else unit.reason
        meaning = "it is not polled until then" if unit.pause is not None and unit.pause.until else "it is not polled"
        return [Reason(evidence=f"paused: {held}", meaning=meaning, help=command)]
    if unit.state == "disabled":
        return [Reason(evidence=f"disabled: {unit.reason}", meaning="it is registered, but not polled")]
    if unit.state == "backing_off":
        when = "soon" if unit.next_poll_at is None else format_time(unit.next_poll_at)
        return [
            Reason(
                evidence=f"{unit.attempt} polls in a row failed; the last: {unit.reason}",
                meaning=f"it backs off and is polled again at {when}",
                help=f"celery -A proj perpetual poll {_named(unit)}",
            )
        ]
    return []


def _named(unit: Unit) -> str:
    """Task and tenant as a command line has them."""
    return quote(unit.task) if unit.tenant is None else f"{quote(unit.task)} --tenant {quote(unit.tenant)}"


def _about_room(contract: TaskContract, unit: Unit) -> list[Reason]:
    if unit.in_flight < contract.max_in_flight:
        return []
    return [
        Reason(
            evidence=f"{unit.in_flight} items are in flight, max_in_flight is {contract.max_in_flight}",
            meaning="there is no room for new items until some of them end; do workers consume its queue?",
            help="celery -A proj inspect active_queues",
        )
    ]


def _about_parked(store: Store, contract: TaskContract) -> list[Reason]:
    found = [parked for parked in parked_tasks(store) if parked["task"] == contract.name]
    if not found:
        return []
    last = max(found, key=lambda each: each["parked_at"])
    return [
        Reason(
            evidence=f"{len(found)} tasks are parked, the last one because {last['reason']}",
            meaning="they keep their keys and their room until an operator recovers, fails or cancels them",
            help="celery -A proj perpetual parked",
        )
    ]


def _about_held_keys(store: Store, unit: Unit) -> list[Reason]:
    """Item keys that polls leave out because they have failed."""
    held = held_of_unit(store, unit.name, store.now())
    last = "" if held.last is None else f"; the last ended as {held.last.status}: {held.last.error or 'no error'}"
    command, reasons = f"celery -A proj perpetual allow {_named(unit)} KEY", []
    if held.next_free_at is not None:
        when = format_time(to_datetime(held.next_free_at))
        meaning = f"polls leave them out until their back-off is over, the first one until {when}"
        reasons.append(
            Reason(evidence=f"{held.held_back} item keys are held back{last}", meaning=meaning, help=command)
        )
    if held.parked:
        meaning = "polls leave them out until an operator allows them"
        reasons.append(Reason(evidence=f"{held.parked} item keys are parked{last}", meaning=meaning, help=command))
    return reasons


def _about_polls(unit: Unit, polls: list[PollOutcome]) -> list[Reason]:
    if not polls:
        return [Reason(evidence="no poll has ended yet", meaning="it waits for its first slot")]
    if polls[0].gate == "items_in_flight":
        return [
            Reason(
                evidence=f"{polls[0].value:g} items of the last batch are in flight, and its cursor would pass them",
                meaning="the batch is read again, and enqueued as a whole once their tasks have ended",
                help="put a version of the row into the key if its changes may be worked on side by side",
            )
        ]
    if polls[0].gate == "items_held_back":
        return [
            Reason(
                evidence=f"{polls[0].value:g} items of the last batch are held back, and its cursor would pass them",
                meaning="the batch is read again, and enqueued as a whole once their keys are free",
                help="put a version of the row into the key if its changes may be worked on side by side",
            )
        ]
    newest = polls[:MANY_DUPLICATES]
    if len(newest) == MANY_DUPLICATES and all(poll.duplicates and not poll.count for poll in newest):
        return [
            Reason(
                evidence=f"the last {MANY_DUPLICATES} polls found only duplicates ({unit.in_flight} in flight)",
                meaning="next_batch returns work that is in flight and may hide the rows behind it",
                help="leave poll.keys() out of the query",
            )
        ]
    last = polls[0]
    if last.status == "skipped":
        is_measured = last.value is not None and last.limit is not None
        detail = f"{last.gate} is {last.value:g} of {last.limit:g}" if is_measured else last.gate
        times = f", {last.repeated} times in a row" if last.repeated > 1 else ""
        return [
            Reason(
                evidence=f"the last poll was skipped: {last.reason or detail}{times}", meaning="nothing was enqueued"
            )
        ]
    if last.status == "empty" and not last.duplicates and not last.held_back:
        times = f" {last.repeated} times in a row" if last.repeated > 1 else ""
        return [Reason(evidence=f"next_batch found nothing{times}", meaning="there is no work to enqueue")]
    return []
