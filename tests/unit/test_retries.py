"""``Retries``: checked when made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import timedelta
from typing import Any

import pytest

from celery_perpetual import ContractError, PerpetualOptions, Retries


def test_the_defaults_are_the_documented_ones() -> None:
    """Half a minute, doubled with each failure up to an hour, without an end."""
    retries = Retries()

    assert (retries.max_attempts, retries.backoff, retries.multiplier) == (None, 30.0, 2.0)
    assert (retries.max_backoff, retries.jitter) == (3600.0, True)


def test_durations_may_be_timedeltas() -> None:
    """They are kept as seconds, and equal values are equal."""
    assert Retries(backoff=timedelta(minutes=1), max_backoff=timedelta(hours=2)) == Retries(
        backoff=60, max_backoff=7200
    )


def test_it_cannot_be_changed_afterwards() -> None:
    """One object may serve many tasks."""
    with pytest.raises(FrozenInstanceError):
        Retries().backoff = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"max_attempts": 0}, "max_attempts must be a whole number of at least 1, got 0"),
        ({"max_attempts": 2.5}, "max_attempts must be a whole number of at least 1, got 2.5"),
        ({"backoff": -1}, "backoff must be at least 0 seconds, got -1"),
        ({"backoff": "soon"}, "backoff must be seconds .a number or a timedelta., got 'soon'"),
        ({"backoff": float("nan")}, "backoff must be seconds .a number or a timedelta., got nan"),
        ({"multiplier": 0.5}, "multiplier must be a number of at least 1, got 0.5"),
        ({"multiplier": float("inf")}, "multiplier must be a number of at least 1, got inf"),
        ({"multiplier": True}, "multiplier must be a number of at least 1, got True"),
        ({"max_backoff": 5}, "max_backoff must be at least backoff .30 seconds., got 5"),
        ({"jitter": 1}, "jitter must be True or False, got 1"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], says: str) -> None:
    """The message names field and value."""
    with pytest.raises(ContractError, match=f"^Retries: {says}$"):
        Retries(**values)


def test_an_option_that_is_none_of_them_is_refused() -> None:
    """Numbers and booleans are no curve."""
    with pytest.raises(ContractError, match=r"^perpetual option failed_keys must be Retries\(\.\.\.\) or None, got 5$"):
        PerpetualOptions(failed_keys=5)  # type: ignore[arg-type]
