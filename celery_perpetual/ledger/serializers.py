"""The bytes of a serializer, without what Kombu does anew for every call.

Kombu's ``dumps`` looks the serializer up, wraps errors and, for JSON, makes an encoder object per call. The bytes are
the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kombu import serialization
from kombu.serialization import dumps, loads
from kombu.utils import json as kombu_json

Encode = Callable[[Any], bytes]


def is_plain_json(serializer: str) -> bool:
    """Whether a serializer is Kombu's own JSON, not one that was registered in its place."""
    registry: Any = serialization.registry  # type: ignore[attr-defined]  # kombu's stubs leave it out
    encoder = registry._encoders.get(registry.type_to_name.get(serializer, serializer))  # noqa: SLF001  # no public way
    return (
        encoder is not None
        and encoder.encoder is kombu_json.dumps
        and encoder.content_type == "application/json"
        and encoder.content_encoding == "utf-8"
    )


def encoder(serializer: str) -> Encode:
    """A function from a value to its bytes.

    It raises what ``kombu.serialization.dumps`` raises, for JSON without the wrapping ``EncodeError``.
    """
    if is_plain_json(serializer):
        encode = kombu_json.JSONEncoder().encode
        return lambda value: encode(value).encode()

    def encoded(value: Any) -> bytes:
        data = dumps(value, serializer)[2]
        return data.encode() if isinstance(data, str) else bytes(data)

    return encoded


def loaded(body: bytes, serializer: str) -> Any:
    """The value behind bytes of a serializer; only for what this process or the ledger has serialised."""
    if is_plain_json(serializer):
        return kombu_json.loads(body.decode())
    content_type, encoding = codec(serializer)
    return loads(body, content_type, encoding, accept=[content_type])


def codec(serializer: str) -> tuple[str, str]:
    """Content type and encoding of a serializer, given by its name or its content type.

    Raises:
        KeyError: it is not registered with Kombu.
    """
    registry: Any = serialization.registry  # type: ignore[attr-defined]  # kombu's stubs leave it out
    found = registry._encoders[registry.type_to_name.get(serializer, serializer)]  # noqa: SLF001  # no public way
    return found.content_type, found.content_encoding
