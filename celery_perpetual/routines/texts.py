"""JSON of small values, without what ``json`` does anew for every call: routines are written by thousands."""

from __future__ import annotations

import json
from typing import Any

_quoted = json.encoder.encode_basestring_ascii
_dumps = json.JSONEncoder(separators=(",", ":")).encode


def text_of(value: Any) -> str:
    """The JSON of a value."""
    kind = type(value)
    if kind is str:
        return _quoted(value)
    if kind is int:
        return str(value)
    return "null" if value is None else _dumps(value)
