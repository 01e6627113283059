"""The time that an episode of the starvation ladder counts: that which passes have watched."""

from __future__ import annotations

import pytest

from celery_perpetual.starvation.episode import UNWATCHED_MS, Episode
from celery_perpetual.starvation.series import LONGEST_USUAL_MS, Series
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


@pytest.mark.parametrize(
    ("gaps", "goes_on"),
    [
        ([5, 5, 5, 80], True),
        ([5, 5, 5, 100], False),
        ([300, 300], True),
        ([300, 700], False),
        ([10, 290, 10, 290, 10, 290], True),
        ([5] * 20 + [3600 * 8] + [5] * 20 + [3600], False),
        ([3600, 3600, 3600], True),
        ([86_400, 3 * 3600], False),
        ([5, -86_400, 5], True),
        ([5, 5, 3600, 7200], False),
        ([5, 5, 3600, 3600], False),
        ([5, 3600, 5, 3600], False),
        ([300, 300, 300, 3600, 300, 3600], False),
        ([300, 300, 300, 3600, 300], True),
        ([5] * 5 + [300] * 3, True),
    ],
)
def test_passes_follow_each_other_as_they_are_used_to(gaps: list[int], goes_on: bool) -> None:
    """A gap counts if it is not much longer than those before; the first one that is longer begins another series.

    A stop is no rhythm: what ended a series counts only when it has recurred.
    """
    now, series = BEGIN, Series(BEGIN, BEGIN)
    for gap in gaps:
        now += 1000 * gap
        series = Series.read(series.then(now, UNWATCHED_MS).to_json()) or series
    assert (series.since != now) == goes_on
    assert series.since <= now
    assert series.usual <= LONGEST_USUAL_MS
