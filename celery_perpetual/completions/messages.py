"""Messages that no task can be made of, told in the worker's main process.

A body that cannot be decoded is acknowledged by Celery without any signal. A body of the wrong shape (two parts
instead of three) crashes the worker on receipt, goes back to the queue, and crashes the next one; for our messages it
is refused like any other invalid message instead.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

from celery import bootsteps
from celery.exceptions import InvalidTaskError

from celery_perpetual.completions.completion import LOST
from celery_perpetual.completions.ours import is_ours
from celery_perpetual.completions.signals import reject

#: What a message of the wrong shape makes Celery's receiving code raise.
SHAPE_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)


class ReceiveStep(bootsteps.StartStopStep):
    """Stands around the consumer's receiving code; set up again at every reconnect."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def start(self, consumer: Any) -> None:
        """Wrap."""
        for name, strategy in consumer.strategies.items():
            consumer.strategies[name] = _refusing(consumer, strategy)
        told = _telling(consumer, type(consumer).on_decode_error.__get__(consumer))
        consumer.on_decode_error = told
        consumer.task_consumer.on_decode_error = told


def _refusing(consumer: Any, strategy: Any) -> Any:
    if getattr(strategy, "perpetual", False):
        return strategy

    @wraps(strategy)
    def received(message: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return strategy(message, *args, **kwargs)
        except InvalidTaskError:
            raise
        except SHAPE_ERRORS as error:
            headers = getattr(message, "headers", None) or {}
            if not is_ours(consumer.app, consumer.app.tasks.get(headers.get("task")), headers.get("id"), headers):
                raise
            raise InvalidTaskError(f"message of task {headers.get('id')} has the wrong shape: {error}") from error

    received.perpetual = True  # type: ignore[attr-defined]
    return received


def _telling(consumer: Any, original: Any) -> Any:
    def on_decode_error(message: Any, exc: Exception) -> None:
        original(message, exc)
        reject(consumer.app, getattr(message, "headers", None) or {}, exc, LOST, consumer.hostname)

    return on_decode_error
