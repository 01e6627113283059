"""How values are written on a command line: times, durations, JSON."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from typing import Any

import click

from celery_perpetual.times import parse_time

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")


def read_time(text: str) -> datetime:
    """An RFC 3339 time; one without an offset could mean two things.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        at = parse_time(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a time; write it like 2030-01-31T18:00:00Z") from None
    if at.tzinfo is None:
        raise click.BadParameter(f"{text!r} has no offset; append Z for UTC, or one like +01:00")
    return at


def read_duration(text: str) -> timedelta:
    """Seconds, or numbers with units: ``90``, ``1h30m``, ``500ms``, ``2d``.

    Raises:
        click.BadParameter: it is neither.
    """
    try:
        found = float(text)
    except ValueError:
        if not text or _PART.sub("", text):
            raise click.BadParameter(
                f"{text!r} is not a duration; write seconds, or numbers with ms, s, m, h, d or w such as 1h30m"
            ) from None
        found = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    try:
        return timedelta(seconds=found)
    except (OverflowError, ValueError):
        raise click.BadParameter(f"{text!r} is no possible duration") from None


def read_json(text: str) -> Any:
    """A JSON value.

    Raises:
        click.BadParameter: it is none.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from None


def a_time(_ctx: click.Context, _param: click.Parameter, text: str | None) -> datetime | None:
    """Callback of an option that is a time."""
    return None if text is None else read_time(text)


def a_duration(_ctx: click.Context, _param: click.Parameter, text: str | None) -> timedelta | None:
    """Callback of an option that is a duration."""
    return None if text is None else read_duration(text)


def a_json(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Any:
    """Callback of an option that is JSON."""
    return None if text is None else read_json(text)
