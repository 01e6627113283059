"""Messages that no task can be made of; the worker's main process announces their ends.

A body that cannot be decoded is acknowledged by Celery without any signal. A body of the wrong shape (two parts
instead of three) crashes the worker on receipt, goes back to the queue, and crashes the next one; one whose third part
is no mapping vanishes on a thread, and so does the failure of an ETA that no clock can show. Where we store the end
of the task, all these messages are refused like any other invalid one instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import wraps
from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import InvalidTaskError
from celery.utils.time import maybe_iso8601, maybe_make_aware, timezone

from celery_perpetual.completions.completion import LOST
from celery_perpetual.leases.interest import Interest, interest_in
from celery_perpetual.worker.signals import announce_refused

#: The errors that Celery's receiving code raises over a message of the wrong shape.
SHAPE_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError)


def refusing(consumer: Any, strategy: Any) -> Any:
    """Wrap a strategy: messages of the wrong shape are refused like any other invalid message."""

    @wraps(strategy)
    def received(message: Any, *args: Any, **kwargs: Any) -> Any:
        headers, is_checked = getattr(message, "headers", None) or {}, False
        try:
            if not _is_plain(message, headers) and _has_end(consumer.app, headers):
                _check(message, headers)
            is_checked = True
            return strategy(message, *args, **kwargs)
        except InvalidTaskError:
            raise
        except SHAPE_ERRORS as error:
            # On solo the body runs in here, and an error may be its own.
            if (is_checked and isinstance(consumer.pool, SoloPool)) or not _has_end(consumer.app, headers):
                raise
            raise InvalidTaskError(f"message of task {headers.get('id')} is malformed: {error}") from error

    return received


def _has_end(app: Any, headers: Any) -> bool:
    task = app.tasks.get(headers.get("task"))
    return Interest.END in interest_in(app, task, headers.get("id"), headers)


def _is_plain(message: Any, headers: Any) -> bool:
    """Whether nothing is wrong with a message, as with nearly all; found by asking for exact types, which is quick."""
    payload = message.payload
    return type(payload) is list and len(payload) == 3 and type(payload[2]) is dict and not headers.get("eta")


def _check(message: Any, headers: Any) -> None:
    """Find what Celery would find too late to report.

    Raises:
        InvalidTaskError: the message cannot be run.
    """
    payload = message.payload
    if not isinstance(payload, Mapping) and not (isinstance(payload, list | tuple) and len(payload) == 3):
        raise InvalidTaskError("the body must have three parts: args, kwargs, embed")
    if not isinstance(payload, Mapping) and not isinstance(payload[2] or {}, Mapping):
        raise InvalidTaskError("the third part of the body must be a mapping")
    if headers.get("eta"):
        eta: Any = maybe_iso8601(headers["eta"])
        try:
            timezone.to_system(maybe_make_aware(eta))
        except OverflowError as error:
            raise InvalidTaskError(f"the ETA {eta} is out of range") from error


def announcing_undecodable(consumer: Any) -> Any:
    """Celery's handler of bodies that cannot be decoded, which then announces their end."""
    original = consumer.on_decode_error

    def on_decode_error(message: Any, exc: Exception) -> None:
        original(message, exc)
        announce_refused(consumer.app, getattr(message, "headers", None) or {}, exc, LOST, consumer.hostname)

    return on_decode_error
