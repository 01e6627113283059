"""Why a unit is quiet, or not."""

from __future__ import annotations

from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING, Any

from celery_perpetual.ledger.ids import made_at
from celery_perpetual.operations.units import Unit
from celery_perpetual.polling.outcome import PollOutcome, outcomes
from celery_perpetual.store.commands.batches import open_batches_of
from celery_perpetual.store.commands.failed_keys import held_of_unit
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.store.commands.leases import parked_tasks
from celery_perpetual.store.commands.units import open_poll
from celery_perpetual.store.commands.workers import living_workers
from celery_perpetual.times import format_time, to_datetime
from celery_perpetual.wording import counted_are, one_line

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store
    from celery_perpetual.tasks.contract import TaskContract


#: A poll that has been open for so long is worth a word.
LONG_OPEN_MS = 2000


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
        *_about_leader(store, unit), *_about_state(unit), *_about_room(store, contract, unit),
        *_about_parked(store, contract), *_about_held_keys(store, unit), *_about_open_poll(store, contract, unit),
        *_about_polls(store, unit, polls),
    ]  # fmt: skip
    reasons = reasons or _about_nothing(polls)
    if not reasons:
        when = "at its next slot" if unit.next_poll_at is None else f"at {format_time(unit.next_poll_at)}"
        reasons = [
            Reason(
                evidence=f"state {unit.state}", meaning=f"nothing keeps it from being polled; its next poll is {when}"
            )
        ]
    return Explanation(unit=unit, reasons=tuple(reasons), polls=tuple(polls))


def _about_leader(store: Store, unit: Unit) -> list[Reason]:
    leading = leader_info(store)
    if leading is not None and (unit.next_poll_at is not None or unit.state not in ("active", "backing_off")):
        return []
    if leading is not None:
        return [
            Reason(
                evidence=f"the leading beat {leading.get('owner')} does not know this task",
                meaning="it runs other code, or has just begun to lead; it polls the task when it knows it",
                help="restart that beat",
            )
        ]
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


def _about_open_poll(store: Store, contract: TaskContract, unit: Unit) -> list[Reason]:
    """A poll that has been open for a while: above all one that no worker takes."""
    poll = open_poll(store, unit.name)
    if poll is None or store.now() - poll.since < LONG_OPEN_MS:
        return []
    evidence = f"a poll has been open since {format_time(to_datetime(poll.since))}"
    until = format_time(to_datetime(poll.until))
    if not poll.is_in_worker:
        meaning = f"next_batch has not returned; it is given up after poll_timeout ({contract.poll_timeout:g} s)"
        return [Reason(evidence=evidence, meaning=meaning)]
    queue = contract.options.poll_queue
    where = "in the queue of the task" if queue is None else f"in the queue {queue}"
    meaning = f"a worker evaluates it, or it waits {where} for one; it is given up at {until}"
    return [Reason(evidence=evidence, meaning=meaning, help="celery -A proj inspect active_queues")]


def _named(unit: Unit) -> str:
    """Task and tenant as a command line has them."""
    return quote(unit.task) if unit.tenant is None else f"{quote(unit.task)} --tenant {quote(unit.tenant)}"


def _about_room(store: Store, contract: TaskContract, unit: Unit) -> list[Reason]:
    if unit.in_flight < contract.max_in_flight:
        return []
    if not living_workers(store):
        return [
            Reason(
                evidence=f"{unit.in_flight} items are in flight, and no worker has reported",
                meaning=f"there is no room (max_in_flight is {contract.max_in_flight}) until a worker runs",
                help="celery -A proj worker",
            )
        ]
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
            evidence=f"{counted_are(len(found), 'task')} parked, the last one because {last['reason']}",
            meaning="they keep their keys and their room until an operator recovers, fails or cancels them",
            help="celery -A proj perpetual parked",
        )
    ]


def _about_held_keys(store: Store, unit: Unit) -> list[Reason]:
    """Item keys that polls leave out because they have failed."""
    held = held_of_unit(store, unit.name, store.now())
    last = ""
    if held.last is not None:
        last = f"; the last ended as {held.last.status}: {one_line(held.last.error or 'no error')}"
    command, reasons = f"celery -A proj perpetual allow {_named(unit)} KEY", []
    if held.next_free_at is not None:
        when = format_time(to_datetime(held.next_free_at))
        meaning = f"polls leave them out until their back-off is over, the first one until {when}"
        reasons.append(
            Reason(evidence=f"{counted_are(held.held_back, 'item key')} held back{last}", meaning=meaning, help=command)
        )
    if held.parked:
        meaning = "polls leave them out until an operator allows them"
        reasons.append(
            Reason(evidence=f"{counted_are(held.parked, 'item key')} parked{last}", meaning=meaning, help=command)
        )
    return reasons


def _about_polls(store: Store, unit: Unit, polls: list[PollOutcome]) -> list[Reason]:
    if not polls:
        return []
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
    last = polls[0]
    if last.status == "empty" and last.duplicates:
        oldest = next(open_batches_of(store, unit.name), None)
        since = "" if oldest is None else f", the oldest batch since {format_time(to_datetime(made_at(oldest[0])))}"
        return [
            Reason(
                evidence=f"the last poll found {last.duplicates} items, and all of them are in flight{since}",
                meaning="they are enqueued; a query that does not stop at poll.limit may hide the rows behind them",
                help=f"celery -A proj perpetual items {unit.task}",
            )
        ]
    if last.gate == "hanging":
        return [
            Reason(
                evidence=f"{last.reason} for {last.value:g} s",
                meaning="it is not called again before that; the thread that runs it cannot be ended",
                help="find what it waits for (a query, a lock, a server without a time-out); a restart of beat ends it",
            )
        ]
    if last.status == "skipped":
        is_measured = last.value is not None and last.limit is not None
        detail = f"{last.gate} is {last.value:g} of {last.limit:g}" if is_measured else last.gate
        times = f", {last.repeated} times in a row" if last.repeated > 1 else ""
        return [
            Reason(
                evidence=f"the last poll was skipped: {last.reason or detail}{times}", meaning="nothing was enqueued"
            )
        ]
    return []


def _about_nothing(polls: list[PollOutcome]) -> list[Reason]:
    """Where nothing else explains it."""
    if not polls:
        return [Reason(evidence="no poll has ended yet", meaning="it waits for its first slot")]
    last = polls[0]
    if last.status == "empty" and not last.held_back:
        times = f" {last.repeated} times in a row" if last.repeated > 1 else ""
        return [Reason(evidence=f"next_batch found nothing{times}", meaning="there is no work to enqueue")]
    return []
