"""The bytes of a serializer, without what Kombu does anew for every call.

Kombu's ``dumps`` looks the serializer up, wraps errors and, for JSON, makes an encoder object per call. The bytes are
the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from kombu import serialization
from kombu.serialization import dumps, loads
from kombu.utils import json as kombu_json

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]
_decode = json.JSONDecoder(object_hook=kombu_json.object_hook).decode


class Encoding(NamedTuple):
    """A serializer, looked up once."""

    encode: Encode
    is_plain_json: bool
    keeps_types: bool
    """It brings back the very types."""

    @classmethod
    def of(cls, serializer: str) -> Encoding:
        """The encoding of that name. One that does not exist raises when it is used."""
        return cls(encoder(serializer), is_plain_json(serializer), keeps_types(serializer))


def keeps_types(serializer: str) -> bool:
    """Whether a serializer brings back the very types."""
    return serializer == "pickle"


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
        return plain_json()

    def encoded(value: Any) -> bytes:
        data = dumps(value, serializer)[2]
        return data.encode() if isinstance(data, str) else bytes(data)

    return encoded


def plain_json() -> Encode:
    """Kombu's JSON by one encoder in C for all values, where ``json`` makes one for each."""
    kombus: Any = kombu_json.JSONEncoder()
    make = getattr(json.encoder, "c_make_encoder", None)
    own = (json.JSONEncoder.encode, json.JSONEncoder.iterencode)
    if make is None or (type(kombus).encode, type(kombus).iterencode) != own:
        return lambda value: kombus.encode(value).encode()
    in_c = make(
        None, kombus.default, json.encoder.encode_basestring_ascii, kombus.indent, kombus.key_separator,
        kombus.item_separator, kombus.sort_keys, kombus.skipkeys, kombus.allow_nan,
    )  # fmt: skip

    def encode(value: Any) -> bytes:
        try:
            return "".join(in_c(value, 0)).encode()
        except Exception:  # which the usual way words better: a value that contains itself
            text: str = kombus.encode(value)
            return text.encode()

    return encode


def loaded(body: bytes, serializer: str) -> Any:
    """The value behind bytes of a serializer; only for what this process or the ledger has serialised."""
    return decoder(serializer)(body)


def decoder(serializer: str) -> Decode:
    """A function from bytes of a serializer to their value; only for what this process or the ledger has serialised."""
    if is_plain_json(serializer):
        return _of_json
    content_type, encoding = codec(serializer)
    return lambda body: loads(body, content_type, encoding, accept=[content_type])


def _of_json(body: bytes) -> Any:
    return _decode(body.decode())


def codec(serializer: str) -> tuple[str, str]:
    """Content type and encoding of a serializer, given by its name or its content type.

    Raises:
        KeyError: it is not registered with Kombu.
    """
    registry: Any = serialization.registry  # type: ignore[attr-defined]  # kombu's stubs leave it out
    found = registry._encoders[registry.type_to_name.get(serializer, serializer)]  # noqa: SLF001  # no public way
    return found.content_type, found.content_encoding
