"""Options of an item: what ``apply_async`` takes, checked before anything of the batch is stored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery.utils.time import maybe_iso8601
from kombu.compression import get_encoder
from kombu.utils.json import dumps as json_dumps

from celery_perpetual.errors import InvalidItem, shown_value
from celery_perpetual.hints import nearest
from celery_perpetual.ledger.serializers import codec

#: Options that only make sense for a call that is made now, by this process.
REFUSED_OPTIONS = frozenset({"task_id", "producer", "publisher", "connection", "router", "result_cls", "chord"})

#: Set by freezing a signature; the item gets an id of our own.
FROZEN_OPTIONS = frozenset({"task_id", "reply_to", "root_id", "parent_id"})

#: Options of ``apply_async`` that Celery and Kombu know.
KNOWN_OPTIONS = REFUSED_OPTIONS | FROZEN_OPTIONS | {
    "add_to_parent", "argsrepr", "chain", "compression", "content_encoding", "content_type", "correlation_id",
    "countdown", "declare", "delivery_mode", "eta", "exchange", "exchange_type", "expiration", "expires", "group_id",
    "group_index", "headers", "ignore_result", "immediate", "kwargsrepr", "link", "link_error", "mandatory",
    "message_id", "priority", "queue", "replaced_task_nesting", "retries", "retry", "retry_policy", "route_name",
    "routing_key", "serializer", "shadow", "soft_time_limit", "stamped_headers", "time_limit", "timeout", "timestamp",
    "type", "user_id", "app_id", "cluster_id",
}  # fmt: skip
#: A name that is less like one of these than this is no misspelling of it.
ALIKE = 0.8


def must_be_known(options: Mapping[str, Any]) -> None:
    """Refuse what has no effect, or what Kombu would only miss when the message is sent.

    Celery takes any name as a property of the message or as a stamp, so only a name that is nearly one of its own is
    taken for a misspelling.
    """
    for name in options:
        if not isinstance(name, str):
            raise InvalidItem(f"option {shown_value(name)} has no name; names are text")
    for name in options.keys() - KNOWN_OPTIONS if "stamped_headers" not in options else ():
        if (near := nearest(name, KNOWN_OPTIONS, ALIKE)) is not None:
            raise InvalidItem(f"option {name} has no effect, did you mean {near}?")


def must_be_possible(options: Mapping[str, Any]) -> None:
    """Refuse values of which no message can be made."""
    try:
        if (serializer := options.get("serializer")) is not None:
            codec(serializer)
    except (KeyError, TypeError):
        raise InvalidItem(f"serializer {shown_value(serializer)} is not registered with Kombu") from None
    try:
        if (method := options.get("compression")) is not None:
            get_encoder(method)
    except (KeyError, TypeError):
        raise InvalidItem(f"compression {shown_value(method)} is not known to Kombu") from None
    headers = options.get("headers")
    if headers is not None and not (isinstance(headers, Mapping) and all(isinstance(name, str) for name in headers)):
        raise InvalidItem(f"option headers must be a dict with text as keys, got {shown_value(headers)}")
    try:
        if (priority := options.get("priority")) is not None:
            int(priority)
    except (TypeError, ValueError, OverflowError):
        raise InvalidItem(f"option priority must be a whole number, got {shown_value(priority)}") from None


def must_be_a_time(name: str, seen: Any) -> None:
    try:
        if not isinstance(seen, str):
            raise TypeError
        maybe_iso8601(seen)
    except (TypeError, ValueError):
        raise InvalidItem(f"{name} must be a datetime or seconds, got {shown_value(seen)}") from None


def must_be_storable(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        try:
            json_dumps(value)
        except (TypeError, ValueError) as error:
            raise InvalidItem(f"option {name} cannot be stored: {error}") from None
