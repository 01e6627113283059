"""``PerpetualOptions``: typed, checked when made, and no name without effect."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from datetime import timedelta
from typing import Any

import pytest
from celery import signature

from celery_perpetual import ContractError, PerpetualOptions, Retries
from celery_perpetual.hints import ATTRIBUTES, OPTIONS


def test_the_defaults_are_the_documented_ones() -> None:
    """Options that are not given have the values of the options table."""
    options = PerpetualOptions()

    assert (options.limit, options.dedup_window, options.history) == (10_000, 0.0, 200)
    assert (options.enabled, options.completions, options.store_args) == (True, True, True)
    assert (options.poll_in, options.jitter, options.on_batch_done) == ("beat", 0.0, None)
    assert options.failed_keys == Retries(max_attempts=None, backoff=30, multiplier=2, max_backoff=3600, jitter=True)


def test_options_are_kept_as_given() -> None:
    """Each option takes its value, durations as seconds."""
    report = signature("shop.report")
    options = PerpetualOptions(
        poll_in="worker",
        jitter=timedelta(seconds=2),
        limit=500,
        dedup_window=timedelta(minutes=5),
        history=7,
        enabled=False,
        completions=False,
        on_batch_done=report,
        store_args=False,
    )

    assert (options.limit, options.dedup_window, options.history) == (500, 300.0, 7)
    assert (options.enabled, options.completions, options.store_args) == (False, False, False)
    assert (options.poll_in, options.jitter, options.on_batch_done) == ("worker", 2.0, report)


def test_options_cannot_be_changed_afterwards() -> None:
    """One object may serve many tasks, as nobody can change it under them."""
    options = PerpetualOptions()

    with pytest.raises(FrozenInstanceError):
        options.limit = 5  # type: ignore[misc]


def test_equal_options_are_equal() -> None:
    """Options compare by value."""
    assert PerpetualOptions(limit=5) == PerpetualOptions(limit=5)
    assert PerpetualOptions(limit=5) != PerpetualOptions(limit=6)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("limit", 0, "must be a whole number of at least 1, got 0"),
        ("limit", -1, "must be a whole number of at least 1, got -1"),
        ("limit", 10.0, "must be a whole number of at least 1, got 10.0"),
        ("limit", True, "must be a whole number of at least 1, got True"),
        ("limit", None, "must be a whole number of at least 1, got None"),
        ("history", 0, "must be a whole number of at least 1, got 0"),
        ("history", "200", "must be a whole number of at least 1, got '200'"),
        ("dedup_window", -1, "must be at least 0 seconds, got -1"),
        ("dedup_window", timedelta(seconds=-1), "must be at least 0 seconds, got -1"),
        ("dedup_window", "5m", "must be seconds (a number or a timedelta), got '5m'"),
        ("dedup_window", float("nan"), "must be seconds (a number or a timedelta), got nan"),
        ("enabled", 1, "must be True or False, got 1"),
        ("enabled", None, "must be True or False, got None"),
        ("store_args", "no", "must be True or False, got 'no'"),
        ("completions", "all", "must be True or False, got 'all'"),
        ("poll_in", "thread", "must be one of beat, worker, got 'thread'"),
        ("jitter", -1, "must be at least 0 seconds, got -1"),
        ("on_batch_done", "shop.report", "must be the signature of one task, got 'shop.report'"),
    ],
)
def test_an_impossible_value_is_refused(name: str, value: Any, says: str) -> None:
    """A value that cannot work is refused with the option's name, what is wrong and what was seen."""
    with pytest.raises(ContractError) as seen:
        PerpetualOptions(**{name: value})

    assert str(seen.value) == f"perpetual option {name} {says}"


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("limits", "limit"),
        ("dedupe_window", "dedup_window"),
        ("histroy", "history"),
        ("enable", "enabled"),
        ("overlaps", "overlap"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_right_one(written: str, meant: str) -> None:
    """A typing error is answered with what was probably meant, also among names of later releases."""
    with pytest.raises(ContractError, match=rf"^unknown perpetual option {written}, did you mean {meant}\?$"):
        PerpetualOptions(**{written: 5})


def test_a_name_without_a_near_one_is_refused_with_the_list() -> None:
    """A name like nothing that we know is answered with all that we know."""
    with pytest.raises(ContractError, match=r"; known are poll_in, overlap, jitter, limit, "):
        PerpetualOptions(zzzz=1)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes_are_told_from_options(name: str) -> None:
    """A keyword that belongs on the task itself is refused with the place where it belongs."""
    with pytest.raises(ContractError, match=rf"^{name} is an attribute of the task, not a perpetual option"):
        PerpetualOptions(**{name: 5})


def test_a_misspelt_attribute_among_the_options_is_named() -> None:
    """It is two mistakes, and both are said."""
    with pytest.raises(
        ContractError, match=r"max_in_fligt, did you mean max_in_flight\? That is an attribute: give it to"
    ):
        PerpetualOptions(max_in_fligt=5)
    with pytest.raises(ContractError, match=r"tenant_ttl, did you mean tenants_ttl\?$"):
        PerpetualOptions(tenant_ttl=5)


def test_errors_know_every_option() -> None:
    """The words are listed apart, for errors of parts that know no tasks."""
    assert {field.name for field in fields(PerpetualOptions)} == set(OPTIONS)


def test_options_have_names_only() -> None:
    """There is no order of options to remember."""
    with pytest.raises(TypeError):
        PerpetualOptions(500)  # type: ignore[misc]
