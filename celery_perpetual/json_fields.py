"""Reports as JSON values: what commands print with ``--json``, and programs get from ``to_dict()``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

from celery_perpetual.times import format_time


class JsonFields:
    """A dataclass whose fields are reported under their names."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; times are RFC 3339 UTC."""
        return json_fields(self)


def json_fields(report: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON values, for a ``to_dict`` that adds to them."""
    return {each.name: _json_value(getattr(report, each.name)) for each in fields(report)}


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return format_time(value)
    if isinstance(value, JsonFields):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_json_value(each) for each in value]
    return dict(value) if isinstance(value, Mapping) else value
