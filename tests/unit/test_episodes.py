"""The time that an episode of the starvation ladder counts: that which passes have watched."""

from __future__ import annotations

import pytest

from celery_perpetual.starvation.episode import UNWATCHED_MS, Episode
from celery_perpetual.thresholds import Thresholds

BEGIN = 1_700_000_000_000


@pytest.mark.parametrize("gap", [1_000, 55_000, 61_000, 200_000, 900_000])
def test_a_round_of_any_length_counts_while_passes_go_on(gap: int) -> None:
    """A pass sees a queue once in a round; the time of long rounds is watched, too."""
    episode = Episode("no_consumer", BEGIN, BEGIN)
    for now in range(BEGIN + gap, BEGIN + 4_000_000, gap):
        episode.watch(now, BEGIN)
    assert episode.began == BEGIN
    assert episode.is_time("park", BEGIN, BEGIN + 4_000_000, Thresholds())


def test_a_cycle_once_a_minute_watches() -> None:
    """Each process begins a series of its own."""
    episode = Episode("no_consumer", BEGIN, BEGIN)
    for now in range(BEGIN + 61_000, BEGIN + 4_000_000, 61_000):
        episode.watch(now, now)
    assert episode.began == BEGIN


def test_time_before_a_series_does_not_count() -> None:
    """That of which no pass has seen anything is left out, once."""
    episode = Episode("no_consumer", BEGIN, BEGIN)
    since = BEGIN + UNWATCHED_MS + 1
    episode.watch(since + 30_000, since)
    assert episode.began == BEGIN + UNWATCHED_MS + 1
    episode.watch(since + 300_000, since)
    assert episode.began == BEGIN + UNWATCHED_MS + 1
