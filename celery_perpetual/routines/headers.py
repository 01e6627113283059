"""The headers of a run's message, and what the task can read there."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from celery import current_task

from celery_perpetual.tasks.task import ROUTINE_HEADER
from celery_perpetual.times import format_ms, parse_time


def header_of(routine_id: str, slot: int, attempt: int) -> dict[str, Any]:
    """The header of a run; ``slot`` in ms."""
    return {"id": routine_id, "slot": format_ms(slot), "attempt": attempt}


def slot_of_this_task() -> datetime | None:
    """The slot for which the task runs that this thread executes; None where it is no run of a routine."""
    request: Any = getattr(current_task, "request", None)
    if request is None:
        return None
    found = request.get(ROUTINE_HEADER) or (request.get("headers") or {}).get(ROUTINE_HEADER)
    return parse_time(found["slot"]) if isinstance(found, Mapping) else None
