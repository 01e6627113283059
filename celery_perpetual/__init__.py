"""Work that finds itself: a Celery task with ``poll_every`` and ``next_batch`` is polled by beat, and what it finds
is enqueued as ordinary Celery tasks. Importing this package changes nothing; ``Perpetual(app)`` wires an app.
"""

from __future__ import annotations

from celery_perpetual.app import Perpetual
from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.completions.batches import BatchResult
from celery_perpetual.completions.completion import Completion
from celery_perpetual.errors import (
    AlreadyExists,
    BatchTooLarge,
    ContractError,
    IdempotencyConflict,
    InvalidItem,
    InvalidRoutine,
    NotFound,
    NotSuccessful,
    PerpetualError,
    RoutineBusy,
    RoutineTerminal,
    SettingsError,
    StaleVersion,
    StoreUnavailable,
    TaskLost,
    UnknownTask,
    UnknownUnit,
)
from celery_perpetual.failures.classes import ErrorClass
from celery_perpetual.failures.rules import ErrorRule
from celery_perpetual.polling.outcome import PollOutcome
from celery_perpetual.polling.poll import Poll
from celery_perpetual.routines.routine import Routine, RoutineRun
from celery_perpetual.tasks.items import Batch, Defer, Item, Pause, Skip
from celery_perpetual.tasks.options import PerpetualOptions
from celery_perpetual.tasks.retries import Retries
from celery_perpetual.tasks.task import PerpetualTask

__all__ = [
    "AlreadyExists",
    "Batch",
    "BatchResult",
    "BatchTooLarge",
    "Completion",
    "ContractError",
    "Defer",
    "ErrorClass",
    "ErrorRule",
    "IdempotencyConflict",
    "InvalidItem",
    "InvalidRoutine",
    "Item",
    "NotFound",
    "NotSuccessful",
    "Pause",
    "Perpetual",
    "PerpetualError",
    "PerpetualOptions",
    "PerpetualScheduler",
    "PerpetualTask",
    "Poll",
    "PollOutcome",
    "Retries",
    "Routine",
    "RoutineBusy",
    "RoutineRun",
    "RoutineTerminal",
    "SettingsError",
    "Skip",
    "StaleVersion",
    "StoreUnavailable",
    "TaskLost",
    "UnknownTask",
    "UnknownUnit",
]
