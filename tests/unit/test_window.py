"""The hours of a task."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from celery_perpetual import ContractError, PerpetualOptions
from celery_perpetual.tasks.window import read_window
from celery_perpetual.times import to_datetime, to_ms

BERLIN = ZoneInfo("Europe/Berlin")


def opens(window: str, at: str) -> str | None:
    """When it opens next, both in Berlin."""
    found = read_window(window)
    assert found is not None
    moment = found.opens(to_ms(datetime.fromisoformat(at).replace(tzinfo=BERLIN)))
    return None if moment is None else f"{to_datetime(moment).astimezone(BERLIN):%d %H:%M %z}"


@pytest.mark.parametrize(
    ("window", "at", "expected"),
    [
        ("08:00-20:00 Europe/Berlin", "2026-06-01 08:00", None),
        ("08:00-20:00 Europe/Berlin", "2026-06-01 19:59", None),
        ("08:00-20:00 Europe/Berlin", "2026-06-01 20:00", "02 08:00 +0200"),
        ("08:00-20:00 Europe/Berlin", "2026-06-01 07:59", "01 08:00 +0200"),
        ("22:00-06:00 Europe/Berlin", "2026-06-01 23:00", None),
        ("22:00-06:00 Europe/Berlin", "2026-06-01 05:59", None),
        ("22:00-06:00 Europe/Berlin", "2026-06-01 06:00", "01 22:00 +0200"),
        ("6:00 - 24:00 Europe/Berlin", "2026-06-01 23:59", None),
        ("6:00 - 24:00 Europe/Berlin", "2026-06-01 00:00", "01 06:00 +0200"),
        ("08:00-20:00", "2026-06-01 09:59", "01 10:00 +0200"),
        ("08:00-20:00 Asia/Tokyo", "2026-06-01 00:59", "01 01:00 +0200"),
        # The nights in which clocks are changed.
        ("08:00-20:00 Europe/Berlin", "2026-03-28 20:00", "29 08:00 +0200"),
        ("02:30-05:00 Europe/Berlin", "2026-03-28 20:00", "29 03:30 +0200"),
        ("08:00-20:00 Europe/Berlin", "2026-10-24 20:00", "25 08:00 +0100"),
    ],
)
def test_a_closed_window_says_when_it_opens(window: str, at: str, expected: str | None) -> None:
    """None where it is open; by the clock of its zone."""
    assert opens(window, at) == expected


@pytest.mark.parametrize(
    ("window", "message"),
    [
        ("8-20", "must be written like \"08:00-20:00 Europe/Berlin\", got '8-20'"),
        (8, "must be written like .* got 8"),
        ("08:00-25:61", "names no such time or zone"),
        ("08:00-20:00 Europe/Nowhere", "names no such time or zone"),
        ("08:00-08:00", "begin and end must differ"),
    ],
)
def test_wrong_windows_are_refused(window: object, message: str) -> None:
    """When the options are made."""
    with pytest.raises(ContractError, match=f"^perpetual option window:? ?.*{message}"):
        PerpetualOptions(window=window)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"low_water": -1}, "perpetual option low_water must be a whole number of at least 0, got -1"),
        ({"max_queue_depth": 0}, "perpetual option max_queue_depth must be a whole number of at least 1, got 0"),
        ({"source_key": ""}, "perpetual option source_key must be a text of at most 200 characters, got ''"),
        ({"source_key": "x" * 201}, "perpetual option source_key must be a text"),
        ({"min_interval": -1}, "perpetual option min_interval must be at least 0 seconds, got -1"),
        ({"max_interval": 0}, "perpetual option max_interval must be at least 0.05 seconds, got 0"),
    ],
)
def test_wrong_paces_are_refused(options: dict[str, object], message: str) -> None:
    """With the option and what was seen."""
    with pytest.raises(ContractError, match=f"^{message}"):
        PerpetualOptions(**options)  # type: ignore[arg-type]
