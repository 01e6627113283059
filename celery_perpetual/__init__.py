"""Work that finds itself: a Celery task with ``poll_every`` and ``next_batch`` is polled by beat, and what it finds
is enqueued as ordinary Celery tasks. Importing this package changes nothing; ``Perpetual(app)`` wires an app.
"""

from __future__ import annotations

from celery_perpetual.app import Perpetual
from celery_perpetual.beat.scheduler import PerpetualScheduler
from celery_perpetual.completions import BatchResult, Completion
from celery_perpetual.errors import (
    BatchTooLarge,
    ContractError,
    InvalidItem,
    NotFound,
    NotSuccessful,
    PerpetualError,
    SettingsError,
    StoreUnavailable,
    TaskLost,
    UnknownTask,
    UnknownUnit,
)
from celery_perpetual.polling import Poll, PollOutcome
from celery_perpetual.tasks import Batch, Defer, Item, Pause, PerpetualOptions, PerpetualTask, Skip

__all__ = [
    "Batch",
    "BatchResult",
    "BatchTooLarge",
    "Completion",
    "ContractError",
    "Defer",
    "InvalidItem",
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
    "SettingsError",
    "Skip",
    "StoreUnavailable",
    "TaskLost",
    "UnknownTask",
    "UnknownUnit",
]
