"""The records of a routine and of its runs that programs see."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from celery_perpetual import events
from celery_perpetual.json_fields import JsonFields, json_fields
from celery_perpetual.ledger.item import HIDDEN, CheckedItem
from celery_perpetual.ledger.record import arguments, read_item
from celery_perpetual.routines.record import BUSY, Record
from celery_perpetual.routines.slots import Timetable
from celery_perpetual.tasks.retries import FIELDS, Retries
from celery_perpetual.telemetry import emit
from celery_perpetual.times import format_time, to_datetime

ENQUEUED = "enqueued"


@dataclass(frozen=True, slots=True, kw_only=True)
class Routine(JsonFields):
    """A durable job record. Times are aware datetimes of the store's clock."""

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    schedule: Timetable
    """When it is due."""
    state: str
    """``active``, ``running``, ``retry_waiting``, ``paused``, ``completed``, ``exhausted`` or ``cancelled``."""
    next_run_at: datetime | None
    """When it runs next; None while it runs, and where it does not."""
    retries: Retries
    options: Mapping[str, Any]
    """``apply_async`` options of its runs."""
    metadata: Mapping[str, Any]
    pause: Mapping[str, Any] | None
    """Of a paused one ``by``, ``reason``, ``at`` and ``until``, as far as they are known; ``replaced`` is the one
    before, which it has replaced."""
    idempotency_key: str | None
    attempt_count: int
    """Attempts of the slot that is run, or is to be tried again; of an exhausted one, of its last slot."""
    recovery_count: int
    """How many of them were lost with their worker."""
    run_count: int
    """Slots that have been run."""
    dropped_count: int
    """Slots that were missed and are not run, with ``catch_up``."""
    current_run_id: str | None
    """Task id of the run that is under way."""
    current_slot_at: datetime | None
    """Its slot, or that of the run that is to be tried again."""
    last_run_id: str | None
    last_run_at: datetime | None
    last_result: Any
    """The last result, if it is short JSON."""
    last_error: Mapping[str, str] | None
    """``type`` and ``message`` of the last failure; None after a success."""
    created_at: datetime
    updated_at: datetime
    cancelled_at: datetime | None
    completed_at: datetime | None
    """When it was completed or exhausted."""
    version: int
    """Counts its changes."""
    hides_args: bool = False
    """Whether arguments are kept out of listings, as its task's ``store_args=False`` says. True as well where this
    process cannot read them, as it lacks a class or a serializer; ``args`` and ``kwargs`` are empty then."""
    created: bool = True
    """False where ``create`` found it under its idempotency key."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        values = json_fields(self) | {
            "schedule": self.schedule.to_dict(), "retries": dict(zip(FIELDS, self.retries.values, strict=True)),
        }  # fmt: skip
        if self.pause is not None:
            values["pause"] = _written(self.pause)
        if self.hides_args:
            values["args"], values["kwargs"] = HIDDEN
        return {name: value for name, value in values.items() if name not in ("hides_args", "created")}


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutineRun(JsonFields):
    """One run of a routine that was started, or could not be."""

    routine_id: str
    slot: datetime
    """The time for which it runs; the same for all attempts."""
    task_id: str
    """Another one for each attempt."""
    attempt: int = 1
    status: str = ENQUEUED
    """``enqueued``; of a run in the calling process how it ended, as of a completion."""
    result: Any = None
    """Of a run in the calling process what the task returned."""
    error: Mapping[str, str] | None = None
    """``type`` and ``message`` of what it raised, or of why it could not be enqueued."""


def shown(record: Record, *, created: bool = True) -> Routine:
    """A record as programs see it."""
    item = read_item(record.item, "")
    args, kwargs, hidden = _arguments(record.id, item)
    created_at, is_busy = to_datetime(record.created), record.state in BUSY
    return Routine(
        id=record.id, task=item.task, args=args, kwargs=kwargs, schedule=record.timetable, state=record.state,
        next_run_at=_time(record.next), retries=record.retries, options=item.options, metadata=dict(record.metadata),
        pause=None if record.pause is None else _read(record.pause),
        idempotency_key=record.key or None, attempt_count=record.attempts, recovery_count=record.recoveries,
        run_count=record.runs, dropped_count=record.dropped, current_run_id=record.run or None,
        current_slot_at=_time(record.slot) if is_busy else None, last_run_id=record.last_run or None,
        last_run_at=_time(record.last_at), last_result=json.loads(record.result) if record.result else None,
        last_error=record.error, created_at=created_at,
        updated_at=created_at if record.updated == record.created else to_datetime(record.updated),
        cancelled_at=_time(record.cancelled), completed_at=_time(record.completed), version=record.version,
        hides_args=hidden, created=created,
    )  # fmt: skip


def _arguments(routine_id: str, item: CheckedItem) -> tuple[tuple[Any, ...], dict[str, Any], bool]:
    """The arguments, and whether listings hide them, as they do those that cannot be read in this process."""
    try:
        return *arguments(item.body, item.serializer), item.reprs == HIDDEN
    except Exception as error:  # of a serializer, or of a class that only other processes have
        emit(events.ROUTINE_ARGUMENTS_UNREADABLE, routine_id=routine_id, error=error)
        return (), {}, True


def _read(pause: Mapping[str, Any]) -> dict[str, Any]:
    """A pause with its times; in the record they are milliseconds."""
    times = {name: to_datetime(pause[name]) for name in ("at", "until") if pause.get(name) is not None}
    before = {"replaced": _read(pause["replaced"])} if "replaced" in pause else {}
    return {**pause, **times, **before}


def _written(pause: Mapping[str, Any]) -> dict[str, Any]:
    """A pause as JSON values."""
    return {
        name: format_time(value) if isinstance(value, datetime) else _written(value) if name == "replaced" else value
        for name, value in pause.items()
    }


def _time(at: int | None) -> datetime | None:
    return None if at is None else to_datetime(at)
