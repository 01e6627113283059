"""Drops deliveries on receipt that must never get as far as running.

A message that kills the worker's main process when it is received never asks for a lease, so the guard cannot stop it.
Whoever receives a message that was delivered before looks first whether its task has ended or is parked.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery import bootsteps
from celery.utils.log import get_logger

from celery_perpetual.errors import StoreUnavailable

logger = get_logger(__name__)


class DropStep(bootsteps.StartStopStep):
    """Stands around the consumer's receiving code; set up again at every reconnect."""

    name = "perpetual-drop"
    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Wrap."""
        for name, strategy in consumer.strategies.items():
            consumer.strategies[name] = _dropping(consumer, strategy)


def _dropping(consumer: Any, strategy: Any) -> Any:
    if getattr(strategy, "perpetual_drops", False):
        return strategy

    @wraps(strategy)
    def received(message: Any, *args: Any, **kwargs: Any) -> Any:
        headers = getattr(message, "headers", None) or {}
        info = getattr(message, "delivery_info", None) or {}
        if info.get("redelivered") and (verdict := _verdict(consumer, headers)):
            logger.info("perpetual: a delivery of task %s is dropped on receipt: %s", headers.get("id"), verdict)
            message.ack_log_error(logger, consumer.connection_errors)
            return None
        return strategy(message, *args, **kwargs)

    received.perpetual_drops = True  # type: ignore[attr-defined]
    return received


def _verdict(consumer: Any, headers: Any) -> str | None:
    app = consumer.app
    leasing, task_id = app.perpetual.leasing, headers.get("id")
    if not leasing.guards(app.tasks.get(headers.get("task")), task_id, headers):
        return None
    try:
        return "parked" if leasing.is_parked(task_id) else None
    except StoreUnavailable:
        return None
