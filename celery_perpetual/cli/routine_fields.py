"""The fields of a routine as options of a command, and as lines of JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

import click
from celery.schedules import ParseException, crontab

from celery_perpetual.cli.values import read_duration, read_json, read_time
from celery_perpetual.errors import ContractError, InvalidRoutine
from celery_perpetual.tasks.retries import FIELDS, Retries

#: The text that takes a field away.
NONE = "none"

_TIMES = ("at", "start_at", "end_at", "next_run_at")
_DURATIONS = ("every", "jitter")
_WHOLE = ("max_runs", "max_catch_up")

_OPTIONS = (
    ("--at", "TIME", "Run once, at this time, like 2030-01-31T18:00:00Z."),
    ("--every", "DURATION", "Run at this interval: seconds, or like 1h30m."),
    ("--cron", "FIELDS", "Run by a crontab: five fields, minute hour day month weekday."),
    ("--timezone", "ZONE", "Time zone of the crontab, like Europe/Berlin; else that of the app."),
    ("--start-at", "TIME", "The first slot of the interval; the crontab counts from then on."),
    ("--end-at", "TIME", "No slot comes after it."),
    ("--max-runs", "N", "How many slots are run."),
    ("--jitter", "DURATION", "Run each slot up to so much later."),
    ("--max-catch-up", "N", "Most missed slots that are run; goes with --catch-up."),
    ("--args", "JSON", "Positional arguments, an array."),
    ("--kwargs", "JSON", "Keyword arguments, an object."),
    ("--options", "JSON", 'Options of apply_async, like {"queue": "mail"}.'),
    ("--metadata", "JSON", "Your own values, an object."),
    ("--retries", "JSON", 'When a failed run is tried again, like {"max_attempts": 5, "backoff": 30}.'),
    ("--idempotency-key", "KEY", "A second create with this key and the same fields returns the first routine."),
    ("--next-run-at", "TIME", "Run next at this time, whatever the schedule says."),
)


def of_routine(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that are fields of a routine."""
    function = click.option("--catch-up/--no-catch-up", default=None, help="Run each missed slot, or only the next.")(
        function
    )
    for name, metavar, text in reversed(_OPTIONS):
        function = click.option(name, metavar=metavar, help=text)(function)
    return function


def from_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were given.

    Raises:
        click.BadParameter: one cannot be read.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name in ("args", "kwargs", "options", "metadata", "retries"):
        if given.get(name, NONE) != NONE:
            given[name] = _named(name, read_json, given[name])
    return _fields(given)


def from_lines(lines: IO[str]) -> Iterator[dict[str, Any]]:
    """The fields of one routine a line, each a JSON object; durations are seconds or like ``1h30m``.

    Raises:
        InvalidRoutine: a line cannot be read.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            given = json.loads(line)
            if not isinstance(given, dict):
                raise InvalidRoutine(f"line {number} must be a JSON object, got {line.strip()[:80]!r}", "line", number)
            yield _fields(given)
        except ValueError as error:
            raise InvalidRoutine(f"line {number}: {error}", getattr(error, "field", ""), number) from None
        except click.BadParameter as error:
            raise InvalidRoutine(f"line {number}: {error.message}", "line", number) from None


def _fields(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of :func:`create` for what was written; a name that is not a field is left to it."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if value in (NONE, None):
            found["schedule" if name == "cron" else name] = None
        elif name in _TIMES and isinstance(value, str):
            found[name] = _named(name, read_time, value)
        elif name in _DURATIONS and isinstance(value, str):
            found[name] = _named(name, read_duration, value)
        elif name in _WHOLE and isinstance(value, str):
            found[name] = _named(name, _whole, value)
        elif name == "cron":
            found["schedule"] = _named(name, _crontab, value)
        elif name == "retries" and isinstance(value, Mapping):
            found[name] = _retries(value)
        else:
            found[name] = value
    return found


def _named(name: str, read: Callable[[Any], Any], value: Any) -> Any:
    """Read a value; an error names the field."""
    try:
        return read(value)
    except click.BadParameter as error:
        raise click.BadParameter(f"{name}: {error.message}") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not a whole number") from None


def _crontab(text: Any) -> crontab:
    fields = text.split() if isinstance(text, str) else []
    if len(fields) != 5:
        raise click.BadParameter(f"{text!r} is not five fields: minute hour day month weekday, like '0 9 * * 1-5'")
    minute, hour, day_of_month, month_of_year, day_of_week = fields
    try:
        return crontab(minute, hour, day_of_week, day_of_month, month_of_year)
    except (ParseException, ValueError) as error:
        raise click.BadParameter(f"{text!r} is no crontab: {error}") from None


def _retries(given: Mapping[str, Any]) -> Retries:
    for name in given:
        if name not in FIELDS:
            raise click.BadParameter(f"retries: {name} is unknown; there are {', '.join(FIELDS)}")
    values: dict[str, Any] = {
        name: read_duration(value) if name in ("backoff", "max_backoff") and isinstance(value, str) else value
        for name, value in given.items()
    }
    try:
        return Retries(**values)
    except ContractError as error:
        raise click.BadParameter(str(error)) from None
