"""Drops deliveries on receipt that must never get as far as running.

A message that kills the worker's main process when it is received never asks for a lease, so the guard cannot stop it.
Whoever receives a message that was delivered before looks first whether its task is parked, or has to be.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

from celery_perpetual import events
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.leases.scope import Interest, interest_in
from celery_perpetual.telemetry import emit
from celery_perpetual.worker.poison import PoisonMarks

if TYPE_CHECKING:
    from celery_perpetual.leases.grants import Grants


def dropping(consumer: Any, strategy: Any) -> Any:
    """Put around the outermost strategy: nothing decodes the payload before the message has its mark."""

    @wraps(strategy)
    def received(message: Any, *args: Any, **kwargs: Any) -> Any:
        headers = getattr(message, "headers", None) or {}
        info = getattr(message, "delivery_info", None) or {}
        grants, task_id = consumer.app.perpetual.grants, str(headers.get("id"))
        task = consumer.app.tasks.get(headers.get("task"))
        if not info.get("redelivered") or Interest.LEASE not in interest_in(consumer.app, task, task_id, headers):
            return strategy(message, *args, **kwargs)
        suspects = None if grants.broker_is_redis else PoisonMarks(consumer.app, grants)
        verdict = _parked(grants, task_id) or (suspects is not None and suspects.take(message, task_id, task.name))
        if verdict:
            emit(events.DELIVERY_DROPPED, task_id=task_id, verdict=verdict)
            message.ack_log_error(get_logger(__name__), consumer.connection_errors)
            return None
        try:
            reply = strategy(message, *args, **kwargs)
        except Exception:  # what it raises is Celery's; whatever else leaves here takes the worker along
            if suspects is not None:
                suspects.let_go(task_id)
            raise
        if suspects is not None:
            suspects.let_go(task_id)
        return reply

    return received


def _parked(grants: Grants, task_id: str) -> str:
    try:
        return "parked" if grants.is_parked(task_id) else ""
    except StoreUnavailable:
        return ""
