"""Text on a terminal: tables that fit it, times of its zone with an age."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest

from celery_perpetual.cli.tables import lines_of
from celery_perpetual.cli.times import age, duration, localized, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADS = ("ID", "TASK", "STATE", "REASON")
ROWS = [("0" * 36, "proj.deliver_to_somebody", "backing_off", "OperationalError: could not connect to the server")]
NOON = datetime(2026, 11, 29, 12, 0, 0, tzinfo=timezone.utc)


def test_a_table_without_a_bound_is_as_wide_as_it_is() -> None:
    head, row = lines_of(HEADS, ROWS, None)

    assert row.endswith("could not connect to the server")
    assert head.index("REASON") == row.index("OperationalError")


@pytest.mark.parametrize("width", [80, 200])
def test_a_table_fits_the_terminal(width: int) -> None:
    """Ids stay whole, what can be spared goes, the rest is cut with a mark."""
    head, row = lines_of(HEADS, ROWS, width, whole=("ID",), spare=("STATE", "REASON"))

    assert max(len(head), len(row)) <= width
    assert row.startswith("0" * 36 + "  ")
    assert ("REASON" in head) == (width == 200)
    narrow = lines_of(HEADS, ROWS, 60, whole=("ID",))
    assert max(map(len, narrow)) <= 70  # no column is cut to nothing
    assert "…" in narrow[1]


def test_a_cell_is_one_line_and_none_is_empty() -> None:
    assert lines_of(("A", "B"), [("one\ntwo", None), ("tab\there", 3)], None) == [
        "A         B",
        "one ...",
        "tab here  3",
    ]


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
def test_times_are_of_the_readers_zone_with_their_age() -> None:
    assert shown(NOON - timedelta(seconds=12), NOON) == "12:59:48 (12 s ago)"
    assert shown(NOON + timedelta(minutes=5), NOON) == "13:05:00 (in 5 min)"
    assert shown(NOON - timedelta(days=3), NOON) == "2026-11-26 13:00:00 (3 d ago)"
    assert shown(None) is None
    text = localized("paused: upgrade (by me since 2020-01-02T03:04:05.678Z, until it is resumed)")
    assert text.startswith("paused: upgrade (by me since 2020-01-02 04:04:05 (")
    assert text.endswith(" d ago), until it is resumed)")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.25, "0.2 s"),
        (9.94, "9.9 s"),
        (59, "59 s"),
        (119, "119 s"),
        (120, "2 min"),
        (7200, "2 h"),
        (172_800, "2 d"),
    ],
)
def test_durations_have_one_unit(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_an_age_says_its_direction() -> None:
    assert age(NOON - timedelta(seconds=90), NOON) == "90 s ago"
    assert age(NOON + timedelta(hours=3), NOON) == "in 3 h"
