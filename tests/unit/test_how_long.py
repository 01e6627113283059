"""How long a finding has lasted, and how often in a row, in words."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from celery_perpetual.cli.times import for_how_long
from celery_perpetual.wording import counted_in_a_row


def test_a_duration_stands_behind_for() -> None:
    """Not behind "since", and without "ago"; where no time is known there are no words."""
    assert for_how_long(datetime.now(timezone.utc) - timedelta(minutes=5)) == ", for 5 min"
    assert for_how_long(None) == ""


def test_one_is_no_row() -> None:
    """A single poll is not "in a row"."""
    assert [counted_in_a_row(count, "poll") for count in (1, 2)] == ["1 poll", "2 polls in a row"]
