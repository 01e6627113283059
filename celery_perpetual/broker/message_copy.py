"""Messages as they were received, kept so that they can be sent again where no ledger could build them."""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from celery.app.task import Context
from kombu.serialization import dumps, loads

from celery_perpetual.tasks.task import HEADER

#: Properties of a message that its copy gets too; the others are the broker's own.
PROPERTIES = ("correlation_id", "reply_to", "priority", "delivery_mode", "expiration")


class Copy(NamedTuple):
    """The facts of one message."""

    body: bytes
    headers: dict[str, Any]
    properties: dict[str, Any]
    content_type: str
    content_encoding: str
    exchange: str
    routing_key: str

    def to_json(self) -> str:
        """As text for the store."""
        return json.dumps(self._replace(body=base64.b64encode(self.body).decode()), default=str)  # type: ignore[arg-type]


def from_message(message: Any) -> Copy:
    """A copy of a message that a consumer has received."""
    body = message.body if isinstance(message.body, bytes) else str(message.body).encode()
    info, properties = message.delivery_info or {}, message.properties or {}
    kept = {name: properties[name] for name in PROPERTIES if properties.get(name) is not None}
    return Copy(
        body, _of_message(message.headers), kept,
        message.content_type, message.content_encoding, info.get("exchange") or "", info.get("routing_key") or "",
    )  # fmt: skip


def from_publish(
    body: Any, headers: dict[str, Any], properties: dict[str, Any], exchange: str, routing_key: str, serializer: str
) -> Copy:  # fmt: skip
    """A copy of a message that is about to be published, as it will be received.

    Raises:
        kombu.exceptions.EncodeError: the serializer cannot serialize it.
    """
    content_type, encoding, text = dumps(body, serializer=serializer)
    kept = {name: properties[name] for name in PROPERTIES if properties.get(name) is not None}
    if "expiration" in kept:  # seconds when it is published, milliseconds in a message
        kept["expiration"] = str(int(kept["expiration"] * 1000))
    payload: Any = text
    encoded = payload if isinstance(payload, bytes) else payload.encode(encoding)
    return Copy(encoded, _of_message(headers), kept, content_type, encoding, exchange, routing_key)


def _of_message(headers: dict[str, Any]) -> dict[str, Any]:
    """Headers but for what a worker notes of a delivery; and a copy is not compressed."""
    return {
        name: value for name, value in headers.items() if name != "compression" and not name.startswith(f"{HEADER}_")
    }


def from_json(text: bytes) -> Copy:
    """A copy from the store."""
    copy = Copy(*json.loads(text))
    return copy._replace(body=base64.b64decode(copy.body))


def request_of(copy: Copy) -> Context:
    """Celery's facts on the task behind a message: its chain, its callbacks, its group."""
    content_type, encoding = copy.content_type, copy.content_encoding
    args, kwargs, embed = loads(copy.body, content_type, encoding, accept=[content_type])
    return Context({**copy.headers, **(embed or {}), "args": args, "kwargs": kwargs})


def publish_copy(producer: Any, copy: Copy) -> None:
    """Send the message once more."""
    binary = copy.content_encoding in ("binary", None)
    properties = dict(copy.properties)
    if "expiration" in properties:
        properties["expiration"] = float(properties["expiration"]) / 1000
    producer.publish(
        copy.body if binary else copy.body.decode(copy.content_encoding),
        exchange=copy.exchange, routing_key=copy.routing_key, headers=copy.headers, content_type=copy.content_type,
        content_encoding=copy.content_encoding, retry=False, **properties,
    )  # fmt: skip
