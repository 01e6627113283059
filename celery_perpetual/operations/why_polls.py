"""Reasons why a unit is quiet that its polls and its item keys show."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from celery_perpetual.health.unit_checks import command_of
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.ledger.ids import made_at
from celery_perpetual.store.commands.batches import open_batches_of
from celery_perpetual.store.commands.failed_keys import held_of_unit
from celery_perpetual.times import format_time, to_datetime
from celery_perpetual.wording import counted, counted_are, one_line

if TYPE_CHECKING:
    from celery_perpetual.operations.units import Unit
    from celery_perpetual.polling.outcome import PollOutcome
    from celery_perpetual.store.connection import Store

#: Gates of a skipped poll: what follows from them, and what helps.
GATES = {
    "window": ("it is polled when its window opens", "celery -A proj perpetual poll {unit} polls it now"),
    "overlap": ("it is polled when the items of its last batch have ended", "celery -A proj perpetual items {unit}"),
    "max_in_flight": ("it is polled when items have ended", "celery -A proj perpetual items {unit}"),
    "max_queue_depth": ("it is polled when its queue is shorter", "add workers; celery -A proj perpetual workers"),
    "wait_hint": ("it is polled when that is over", "celery -A proj perpetual polls {unit} shows who has asked for it"),
    "poll_threads": (
        "it is polled when a poll thread is free",
        "celery -A proj perpetual top --sort budget shows slow polls; raise perpetual_poll_threads",
    ),
    "busy": ("another poll of it is open", "celery -A proj perpetual polls {unit}"),
}
ANY_GATE = ("nothing was enqueued", "celery -A proj perpetual polls {unit}")
#: A batch with a cursor that holds such items is not enqueued in part.
PASSED_OVER = {
    "items_in_flight": ("in flight", "once their tasks have ended"),
    "items_held_back": ("held back", "once their keys are free"),
}
#: A check of its own says these.
SAID = ("hanging", "preflight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason(JsonFields):
    """One fact that explains the unit's behaviour."""

    evidence: str
    meaning: str
    help: str = ""
    """The command that helps, if one does."""
    since: datetime | None = None
    """Since when it is so, as far as that is known."""


def about_keys(store: Store, unit: Unit) -> list[Reason]:
    """Item keys that polls leave out because they have failed."""
    held = held_of_unit(store, unit.name, store.now())
    last = ""
    if held.last is not None:
        last = f"; the last ended as {held.last.status}: {one_line(held.last.error or 'no error')}"
    command, reasons = f"celery -A proj perpetual allow {command_of(unit)} KEY", []
    if held.next_free_at is not None:
        when = format_time(to_datetime(held.next_free_at))
        meaning = f"polls leave such a key out until its back-off is over, the first one until {when}"
        reasons.append(
            Reason(evidence=f"{counted_are(held.held_back, 'item key')} held back{last}", meaning=meaning, help=command)
        )
    if held.parked:
        meaning = "polls leave such a key out until an operator allows it"
        evidence = f"{counted_are(held.parked, 'item key')} parked{last}"
        listing = f"celery -A proj perpetual items {command_of(unit)} --state parked_key"
        reasons.append(Reason(evidence=evidence, meaning=meaning, help=f"{listing}; {command}"))
    return reasons


def about_polls(store: Store, unit: Unit, polls: list[PollOutcome]) -> list[Reason]:
    """Why the last poll has enqueued nothing."""
    if not polls:
        return []
    last = polls[0]
    if last.gate in PASSED_OVER:
        state, when = PASSED_OVER[last.gate]
        return [
            Reason(
                evidence=f"{last.value:g} items of the last batch are {state}, and its cursor would pass them",
                meaning=f"the batch is read again, and enqueued as a whole {when}",
                help="put a version of the row into the key if its changes may be worked on side by side",
            )
        ]
    if last.status == "empty" and last.duplicates:
        oldest = next(open_batches_of(store, unit.name), None)
        since = "" if oldest is None else f", the oldest batch since {format_time(to_datetime(made_at(oldest[0])))}"
        return [
            Reason(
                evidence=f"all that the last poll found is in flight: {counted(last.duplicates, 'item')}{since}",
                meaning="they are enqueued; a query that does not stop at poll.limit may hide the rows behind them",
                help=f"celery -A proj perpetual items {command_of(unit)}",
            )
        ]
    if last.status == "skipped" and last.gate not in SAID:
        is_measured = last.value is not None and last.limit is not None
        detail = f"{last.gate} is {last.value:g} of {last.limit:g}" if is_measured else last.gate
        times = f", {last.repeated} times in a row" if last.repeated > 1 else ""
        meaning, advice = GATES.get(last.gate or "", ANY_GATE)
        evidence = f"the last poll was skipped: {last.reason or detail}{times}"
        return [Reason(evidence=evidence, meaning=meaning, help=advice.format(unit=command_of(unit)))]
    return []


def about_nothing(polls: list[PollOutcome]) -> list[Reason]:
    """Where nothing else explains it."""
    if not polls:
        return [Reason(evidence="no poll has ended yet", meaning="it waits for its first slot")]
    last = polls[0]
    if last.status == "empty" and not last.held_back:
        times = f" {last.repeated} times in a row" if last.repeated > 1 else ""
        return [Reason(evidence=f"next_batch found nothing{times}", meaning="there is no work to enqueue")]
    return []
