"""Drops deliveries on receipt that must never get as far as running.

A message that kills the worker's main process when it is received never asks for a lease, so the guard cannot stop it.
A worker that receives a message that was delivered before asks first whether its task is parked, or has to be.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.interest import Interest, interest_in
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.poison import PoisonMarks

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants


def dropping(consumer: Any, strategy: Any) -> Any:
    """Wrap a strategy, outside of all other wrappers: no code decodes the payload before the message has its mark."""

    @wraps(strategy)
    def received(message: Any, *args: Any, **kwargs: Any) -> Any:
        if not (getattr(message, "delivery_info", None) or {}).get("redelivered"):
            return strategy(message, *args, **kwargs)
        headers = getattr(message, "headers", None) or {}
        grants, task_id = consumer.app.perpetual.grants, str(headers.get("id"))
        task = consumer.app.tasks.get(headers.get("task"))
        if (
            grants.is_away  # the main process waits for the store once, not once for each message
            or Interest.LEASE not in interest_in(consumer.app, task, task_id, headers)
        ):
            return strategy(message, *args, **kwargs)
        marks = None if grants.broker_is_redis else PoisonMarks(consumer.app, grants)
        verdict = _parked(grants, task_id)
        if not verdict and marks is not None and not grants.is_away:
            verdict = marks.mark(message, task_id, task.name)
        if grants.is_away:
            marks = None
        if verdict:
            emit(events.DELIVERY_DROPPED, task_id=task_id, verdict=verdict)
            message.ack_log_error(get_logger(__name__), consumer.connection_errors)
            return None
        try:
            reply = strategy(message, *args, **kwargs)
        except Exception:  # Celery handles it; any other exception ends the worker
            if marks is not None:
                marks.unmark(task_id)
            raise
        if marks is not None:
            marks.unmark(task_id)
        return reply

    return received


def _parked(grants: Grants, task_id: str) -> str:
    try:
        return "parked" if grants.is_parked(task_id) else ""
    except StoreUnavailable:
        grants.note_away()
        return ""
