"""The fields of a routine as they are written on a command line, or as lines of JSON."""

from __future__ import annotations

import io
import json
from datetime import datetime, timedelta, timezone
from typing import Any

import click
import pytest
from celery.schedules import crontab

from celery_perpetual import InvalidRoutine, Retries
from celery_perpetual.cli.routine_fields import from_lines, from_options
from celery_perpetual.cli.values import read_duration
from celery_perpetual.routines.fields import OF_CREATE, OF_UPDATE
from celery_perpetual.routines.typed import Created, Patch


def test_what_is_written_becomes_the_values_of_create() -> None:
    """Options and lines of a file are read alike; a name that is no field is left to the operation, which refuses it."""
    written = {
        "at": "2030-01-31T18:00:00Z", "every": "1h30m", "jitter": "5", "max_runs": "7", "cron": "0 9 * * mon-fri",
        "timezone": "Europe/Berlin", "idempotency_key": "k",
    }  # fmt: skip
    values = {"args": [1], "retries": {"max_attempts": 5, "backoff": "30s"}}
    expected: dict[str, Any] = {
        "at": datetime(2030, 1, 31, 18, tzinfo=timezone.utc), "every": timedelta(minutes=90),
        "jitter": timedelta(seconds=5), "max_runs": 7, "schedule": crontab(0, 9, day_of_week="mon-fri"),
        "timezone": "Europe/Berlin", "idempotency_key": "k", "args": [1],
        "retries": Retries(max_attempts=5, backoff=30),
    }  # fmt: skip

    as_options = from_options({**written, **{name: json.dumps(value) for name, value in values.items()}, "id": None})
    lines = io.StringIO("\n" + json.dumps({**written, **values, "max_runs": 7, "evry": 3}) + "\n")

    assert as_options == expected
    assert list(from_lines(lines)) == [{**expected, "evry": 3}]


def test_none_takes_a_field_away() -> None:
    """An option of `none` means a field that is None; one that is not given means nothing."""
    given = {"end_at": "none", "metadata": "none", "cron": "none", "max_runs": "none", "at": None}

    assert from_options(given) == {"end_at": None, "metadata": None, "schedule": None, "max_runs": None}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("0.5", 0.5), ("1h30m", 5400), ("500ms", 0.5), ("2d", 172_800), ("1w1s", 604_801), ("1.5m", 90)],
)
def test_a_duration_is_seconds_or_has_units(text: str, seconds: float) -> None:
    """The usual short forms."""
    assert read_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"start_at": "tomorrow"}, "start_at: 'tomorrow' is not a time; write it like"),
        ({"start_at": "2030-01-01T00:00:00"}, "start_at: '2030-01-01T00:00:00' has no offset"),
        ({"every": "soon"}, "every: 'soon' is not a duration; write seconds"),
        ({"every": "1h 30m"}, "every: '1h 30m' is not a duration"),
        ({"every": ""}, "every: '' is not a duration"),
        ({"every": "nan"}, "every: 'nan' is no possible duration"),
        ({"every": "1e300"}, "every: '1e300' is no possible duration"),
        ({"max_runs": "x"}, "max_runs: 'x' is not a whole number"),
        ({"cron": "0 25 * * *"}, r"cron: '0 25 \* \* \*' is no crontab: "),
        ({"cron": "x * * * *"}, r"cron: 'x \* \* \* \*' is no crontab: "),
        ({"cron": "0 0 31 2 *"}, r"cron: '0 0 31 2 \*' is no crontab: "),
        ({"cron": "@daily"}, "cron: '@daily' is not five fields: minute hour day month weekday"),
        ({"retries": '{"attempts": 3}'}, "retries: attempts is unknown; there are max_attempts, backoff"),
        ({"retries": '{"max_attempts": 0}'}, "Retries: max_attempts must be a whole number of at least 1, got 0"),
        ({"args": "[7"}, "args: '\\[7' is not JSON"),
    ],
)
def test_what_cannot_be_read_is_named(given: dict[str, str], says: str) -> None:
    """The error says which option, what was seen, and how it is written; of a file, in which line."""
    with pytest.raises(click.BadParameter, match=f"^{says}"):
        from_options(given)
    if "args" not in given and "retries" not in given:
        with pytest.raises(InvalidRoutine, match=f"^line 2: {says}"):
            list(from_lines(io.StringIO(f"{{}}\n{json.dumps(given)}")))


@pytest.mark.parametrize("line", ["[]", "7", "{'task': 1}", '{"a": 1'])
def test_a_line_is_an_object(line: str) -> None:
    """Anything else is refused with its number."""
    with pytest.raises(InvalidRoutine, match=r"^line 1"):
        list(from_lines(io.StringIO(line)))


def test_type_checkers_know_the_fields_that_are_read() -> None:
    """Those of ``create`` besides task and arguments, and those of ``update``."""
    assert set(Created.__annotations__) | {"task", "args", "kwargs"} == set(OF_CREATE)
    assert Patch.__annotations__.keys() == set(OF_UPDATE)
