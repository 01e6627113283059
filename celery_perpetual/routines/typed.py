"""The fields of a routine for type checkers; at run time they are checked by ``fields``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, tzinfo
from typing import TYPE_CHECKING, Any, TypedDict

from celery_perpetual.tasks.retries import Retries

if TYPE_CHECKING:
    from celery.schedules import BaseSchedule
    from celery.schedules import schedule as interval


class Settable(TypedDict, total=False):
    """Fields that are set by name, when a routine is created and later; None takes one away."""

    at: datetime | None
    every: float | timedelta | interval | None
    schedule: BaseSchedule | None
    timezone: str | tzinfo | None
    start_at: datetime | None
    end_at: datetime | None
    max_runs: int | None
    jitter: float | timedelta | None
    catch_up: bool | None
    max_catch_up: int | None
    retries: Retries | None
    options: Mapping[str, Any] | None
    metadata: Mapping[str, Any] | None
    idempotency_key: str | None
    paused: bool
    next_run_at: datetime | None


class Created(Settable, total=False):
    """Fields of ``create`` besides task and arguments."""

    id: str | None


class Patch(Settable, total=False):
    """Fields of ``update``."""

    task: Any
    args: Sequence[Any]
    kwargs: Mapping[str, Any] | None
