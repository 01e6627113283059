"""The steps of a routine from state to state: pure functions from one record to the next.

``active → running → completed | active | retry_waiting | exhausted``, ``active ⇄ paused``, all → ``cancelled``.
A slot stays the same through all attempts. A routine that repeats never becomes exhausted: after its last attempt it is
active again, at its next slot. Times are milliseconds of the store's clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from celery_perpetual.completions.completion import IGNORED, LOST, REVOKED, SUCCESS
from celery_perpetual.errors import InvalidRoutine, described
from celery_perpetual.failures.backoff import SHORTEST_MS
from celery_perpetual.routines.asking import asked
from celery_perpetual.routines.checks import LAST
from celery_perpetual.routines.record import (
    ACTIVE,
    CANCELLED,
    COMPLETED,
    EXHAUSTED,
    PAUSED,
    RETRY_WAITING,
    RUNNING,
    Record,
)
from celery_perpetual.routines.slots import Timetable
from celery_perpetual.tasks.retries import Retries
from celery_perpetual.times import ms, to_datetime, to_ms

#: Ends after which a routine goes on with its next slot.
GOES_ON = frozenset({SUCCESS, IGNORED, REVOKED})

#: No attempt waits longer: a year.
LONGEST_WAIT = 366 * 24 * 3600.0


class RunEnd(NamedTuple):
    """How a run ended."""

    task_id: str
    status: str
    result: str = ""
    """JSON, "" for none."""
    error: Mapping[str, str] | None = None


def scheduled(timetable: Timetable, routine_id: str, slot: int | None) -> dict[str, Any]:
    """The fields that say when it runs next: at a slot, or never."""
    if slot is None or not timetable.jitter:
        return {"next": slot, "slot": None}
    due = to_ms(timetable.due(to_datetime(slot), routine_id))
    return {"next": due, "slot": None if due == slot else slot}


def started(record: Record, task_id: str, now: int, at: int | None = None) -> Record:
    """A run of the slot that is due begins; ``at`` is the time that the caller has given instead of now."""
    return record.changed(
        now, state=RUNNING, run=task_id, slot=record.due_slot, next=None, attempts=record.attempts + 1,
        last_run=task_id, last_at=now if at is None else max(now, at),
    )  # fmt: skip


def ended(record: Record, end: RunEnd, now: int, most_recoveries: int) -> Record:
    """The run that is under way has ended."""
    if end.status in GOES_ON:
        return _after_slot(record, now, COMPLETED, result=end.result, error=None)
    error = end.error or {"type": "TaskLost" if end.status == LOST else end.status, "message": ""}
    recoveries = record.recoveries + (end.status == LOST)
    most = record.retries.max_attempts
    if (most is not None and record.attempts >= most) or recoveries > most_recoveries:
        return _after_slot(record, now, EXHAUSTED, lost=recoveries - record.recoveries, result="", error=error)
    return record.changed(
        now, state=RETRY_WAITING, run="",
        next=min(LAST, _time_of_end(record, now) + delay_after(record.retries, record.id, record.attempts)),
        recoveries=recoveries, error=error,
    )  # fmt: skip


def ended_by_hand(record: Record, end: RunEnd, now: int) -> Record:
    """A run by hand has ended: state, times and attempts stay."""
    if end.status in GOES_ON:
        return record.changed(now, result=end.result)
    return record.changed(now, error=end.error or {"type": end.status, "message": ""})


def _time_of_end(record: Record, now: int) -> int:
    """The end is not before the start: a caller may have started it for a time that is ahead."""
    at = record.last_at
    return now if at is None or at <= record.updated else max(now, at)


def _after_slot(record: Record, now: int, final: str, *, lost: int = 0, **outcome: Any) -> Record:
    """The slot is done: the next one, or the end of the routine."""
    assert record.slot is not None
    usual = {"run": "", "attempts": 0, "recoveries": 0, "runs": record.runs + 1, **outcome}
    try:
        ended_at = to_datetime(_time_of_end(record, now))
        slot, table = to_datetime(record.slot), record.timetable
        following = asked(table, lambda: table.following(slot, ended_at, record.runs + 1))
    except InvalidRoutine as error:  # the code of a schedule of the user's
        problem = {"type": "InvalidRoutine", "message": described(error)}
        pause = {"by": "celery-perpetual", "reason": f"its schedule fails: {described(error)}", "at": now}
        return record.changed(now, state=PAUSED, pause=pause, next=None, slot=None, **{**usual, "error": problem})
    usual["dropped"] = record.dropped + following.dropped
    if following.slot is None:
        state = final if record.timetable.kind == "once" else COMPLETED
        if state == EXHAUSTED:
            usual |= {"attempts": record.attempts, "recoveries": record.recoveries + lost}
        return record.changed(now, state=state, completed=now, next=None, slot=None, **usual)
    return record.changed(now, state=ACTIVE, **scheduled(record.timetable, record.id, to_ms(following.slot)), **usual)


def delay_after(retries: Retries, routine_id: str, attempts: int) -> int:
    """Milliseconds from the end of an attempt to the next one; the jitter of one attempt is always the same."""
    longest = LONGEST_WAIT if retries.max_backoff is None else min(retries.max_backoff, LONGEST_WAIT)
    try:
        seconds = retries.backoff * retries.multiplier ** (attempts - 1)
    except OverflowError:
        seconds = longest
    if retries.jitter:
        share = int.from_bytes(blake2b(f"{routine_id} {attempts}".encode(), digest_size=4).digest(), "big") / 2**34
        seconds *= 1 + share
    # Tries without end must not follow one another without a pause.
    shortest = SHORTEST_MS if retries.max_attempts is None else 0
    return max(shortest, ms(min(seconds, longest)))


def cancelled(record: Record, now: int) -> Record:
    """It runs no more."""
    return record.changed(
        now, state=CANCELLED, cancelled=now, pause=None, next=None, slot=None, run="", attempts=0, recoveries=0
    )  # fmt: skip


def paused(record: Record, now: int, **pause: Any) -> Record:
    """It does not run until it is resumed, or until its pause ends by itself. A pause before this one is in it."""
    before, until = record.pause, record.paused_until
    if record.state == PAUSED and before is not None and (until is None or until > now):
        pause["replaced"] = {name: value for name, value in before.items() if name != "replaced"}
    return record.changed(now, state=PAUSED, pause={**pause, "at": now})


def without_missed(record: Record, now: int) -> Record:
    """The same routine, due at its first slot after now; as it was, if it is not due yet or has no later slot."""
    if record.next is None or record.next > now:
        return record
    table, due = record.timetable, to_datetime(record.due_slot)
    slot = asked(table, lambda: table.after(due, to_datetime(now)))
    return record if slot is None else record._replace(**scheduled(record.timetable, record.id, to_ms(slot)))
