"""Why a unit is quiet, or not."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_perpetual.health import beat_checks, queues, store_checks, unit_checks, work_checks, worker_checks
from celery_perpetual.health.findings import Finding
from celery_perpetual.health.reading import Reading
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.operations.check import other_beat_scheduler
from celery_perpetual.operations.units import Unit
from celery_perpetual.operations.why_polls import Reason, about_keys, about_nothing, about_polls
from celery_perpetual.polling.outcome import PollOutcome, outcomes
from celery_perpetual.store.commands.batches import open_batches_of
from celery_perpetual.store.commands.leases import parked_tasks
from celery_perpetual.store.commands.units import open_poll
from celery_perpetual.times import format_time, to_datetime
from celery_perpetual.wording import counted_are, counted_in_a_row

if TYPE_CHECKING:
    from celery_perpetual.namespace import Namespace
    from celery_perpetual.tasks.contract import TaskContract

#: An operator who asks waits less long than an alert: this part of what the checks of queues allow.
PATIENCE = 0.1
#: A poll that has been open for so long is worth a word.
LONG_OPEN_MS = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation(JsonFields):
    """A unit, what explains it, and its newest outcomes."""

    unit: Unit
    reasons: tuple[Reason, ...]
    polls: tuple[PollOutcome, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return json_fields(self) | {"polls": [poll.to_dict(task_ids=False) for poll in self.polls]}


def explain(namespace: Namespace, contract: TaskContract, unit: Unit) -> Explanation:
    """Explain a unit from what is stored: the checks of ``status``, and its polls. It asks no worker and no broker."""
    reading = Reading(namespace)
    polls = outcomes(reading.store, unit.name, 10)
    reasons = [
        *map(_reason, _findings(reading, contract, unit)), *_about_leader(reading, unit), *_about_state(unit),
        *_about_room(contract, unit), *_about_parked(reading, contract), *about_keys(reading.store, unit),
        *_about_open_poll(reading, contract, unit), *about_polls(reading.store, unit, polls),
    ]  # fmt: skip
    reasons = reasons or about_nothing(polls)
    if not reasons:
        when = "at its next slot" if unit.next_poll_at is None else f"at {format_time(unit.next_poll_at)}"
        meaning = f"nothing keeps it from being polled; its next poll is {when}"
        reasons = [Reason(evidence=f"state {unit.state}", meaning=meaning)]
    return Explanation(unit=unit, reasons=tuple(reasons), polls=tuple(polls))


def _reason(finding: Finding) -> Reason:
    return Reason(evidence=finding.evidence, meaning=finding.meaning, help=finding.help, since=finding.since)


def _findings(reading: Reading, contract: TaskContract, unit: Unit) -> Iterator[Finding]:
    """The findings of ``status`` that may be the reason."""
    yield from store_checks.refusing(reading)
    yield from (each for each in store_checks.eviction(reading) if each.level == "error")
    yield from store_checks.clock(reading)
    yield from beat_checks.leader(reading)
    yield from beat_checks.other_app(reading)
    if reading.lead.info is None:
        yield from other_beat_scheduler(reading.namespace)
    yield from unit_checks.pauses(reading, [unit])
    yield from unit_checks.tenants(reading, [contract])
    yield from unit_checks.silent(reading, [unit])
    yield from unit_checks.unevaluated([unit])
    yield from unit_checks.slow([unit])
    if unit.in_flight:
        yield from worker_checks.absent(reading, unit.in_flight)
        yield from worker_checks.late(reading)
        yield from worker_checks.skewed(reading)
        yield from beat_checks.failing_pass(reading)
        yield from work_checks.unpublished(reading, unit.name, PATIENCE)
        yield from work_checks.replaced(reading, unit.name)
        yield from _about_queues(reading, unit)


def _about_queues(reading: Reading, unit: Unit) -> Iterable[Finding]:
    """Reasons why its items wait."""
    polls = [poll for poll, _ in islice(open_batches_of(reading.store, unit.name), queues.MOST_BATCHES)]
    return queues.queue_findings(reading, queues.waiting_items(reading, polls).values(), patience=PATIENCE)


def _about_leader(reading: Reading, unit: Unit) -> Iterator[Reason]:
    info = reading.lead.info
    if info is not None and unit.next_poll_at is None and unit.state in ("active", "backing_off"):
        yield Reason(
            evidence=f"the leading beat {info.get('owner')} does not know this task",
            meaning="it runs other code, or has just begun to lead; it polls the task when it knows it",
            help="restart that beat",
        )


def _about_state(unit: Unit) -> Iterator[Reason]:
    named = unit_checks.command_of(unit)
    if unit.state == "disabled":
        option = "enabled=False" if "enabled" in str(unit.reason) else "its name from perpetual_disabled"
        yield Reason(
            evidence=f"disabled: {unit.reason}", meaning="it is registered, but not polled",
            help=f"remove {option} and restart beat; celery -A proj perpetual poll {named} polls it once",
        )  # fmt: skip
    elif unit.state == "orphaned":
        yield Reason(
            evidence=f"orphaned: {unit.reason}", meaning="it is not polled, and is forgotten after a week",
            help="celery -A proj perpetual units --state orphaned lists them; deploy code that has it, or leave it",
        )  # fmt: skip
    elif unit.state == "backing_off":
        when = "soon" if unit.next_poll_at is None else format_time(unit.next_poll_at)
        yield Reason(
            evidence=f"{counted_in_a_row(unit.attempt, 'poll')} failed; the last: {unit.reason}",
            meaning=f"it backs off and is polled again at {when}", help=f"celery -A proj perpetual poll {named}",
        )  # fmt: skip


def _about_open_poll(reading: Reading, contract: TaskContract, unit: Unit) -> Iterator[Reason]:
    """A poll that has been open for a while: above all one that no worker takes."""
    poll = open_poll(reading.store, unit.name)
    if poll is None or reading.now - poll.since < LONG_OPEN_MS:
        return
    evidence, since = f"a poll has been open since {format_time(to_datetime(poll.since))}", to_datetime(poll.since)
    until = format_time(to_datetime(poll.until))
    if not poll.is_in_worker:
        meaning = f"next_batch has not returned; it is given up after poll_timeout ({contract.poll_timeout:g} s)"
        yield Reason(evidence=evidence, meaning=meaning, since=since)
        return
    queue = contract.options.poll_queue
    where = "in the queue of the task" if queue is None else f"in the queue {queue}"
    meaning = f"a worker evaluates it, or it waits {where} for one; it is given up at {until}"
    yield Reason(evidence=evidence, meaning=meaning, help="celery -A proj inspect active_queues", since=since)


def _about_room(contract: TaskContract, unit: Unit) -> Iterator[Reason]:
    if unit.in_flight >= contract.max_in_flight:
        yield Reason(
            evidence=f"{counted_are(unit.in_flight, 'item')} in flight, max_in_flight is {contract.max_in_flight}",
            meaning="there is no room for new items until some of them end",
            help=f"celery -A proj perpetual items {unit_checks.command_of(unit)}",
        )


def _about_parked(reading: Reading, contract: TaskContract) -> Iterator[Reason]:
    found = [parked for parked in parked_tasks(reading.store) if parked["task"] == contract.name]
    if found:
        yield Reason(
            evidence=f"{counted_are(len(found), 'task')} parked, the last one because {found[-1]['reason']}",
            meaning="they keep their keys and their room until an operator recovers, fails or cancels them",
            help="celery -A proj perpetual parked", since=to_datetime(float(found[0]["parked_at"])),
        )  # fmt: skip
