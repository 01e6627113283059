"""Annotations: values that a running task adds to its completion."""

from __future__ import annotations

import json
from typing import Any

from celery import current_task

from celery_perpetual.errors import ContractError
from celery_perpetual.leases.execution import execution_of

#: All annotations of one execution together, as JSON.
LONGEST = 8 * 1024


def annotate(**meta: Any) -> None:
    """Add facts to the completion of the task that is running; they come as ``Completion.meta``.

    Raises:
        ContractError: no task is running here, or the facts are not JSON or too long.
    """
    running: Any = current_task
    if not running:
        raise ContractError("annotate: no task is running here; call it inside a task")
    execution = execution_of(running.request.id)
    known = {**((execution and execution.meta) or {}), **meta}
    try:
        length = len(json.dumps(known, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ContractError(f"annotate: the values must be JSON ({error})") from None
    if length > LONGEST:
        raise ContractError(f"annotate: {length} characters of JSON are too many, at most {LONGEST} are allowed")
    if execution is not None:
        execution.meta = known
