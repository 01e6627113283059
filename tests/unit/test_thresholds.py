"""Thresholds of the starvation ladder: positive, in the order of the steps, and refused by name otherwise."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from celery import Celery

from celery_perpetual import ContractError, PerpetualOptions, PerpetualTask, SettingsError
from celery_perpetual.settings import Settings
from celery_perpetual.tasks.discovery import discover, must_climb
from celery_perpetual.thresholds import DEFAULT, STEPS, Thresholds
from tests.support.contract import nothing


def read(value: Any) -> Thresholds:
    app = Celery("shop", set_as_current=False)
    app.conf.perpetual_starvation = value
    return Settings.from_app(app).starvation


def test_defaults_and_what_is_given() -> None:
    """A step that is not given keeps its default; None switches one off; equal times are in order."""
    assert [getattr(DEFAULT, step) for step in STEPS] == [120, 300, 600, 900, 3600]
    assert read({}) == DEFAULT
    assert read({"notice": timedelta(minutes=1), "park": None}) == Thresholds(notice=60.0, park=None)
    assert read(dict.fromkeys(STEPS, 5)).first == 5
    assert read(dict.fromkeys(STEPS)).first is None
    assert read({"notice": None, "wake": 1}).first == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (5, "must be a dict of step to seconds"),
        ({"notise": 5}, "unknown step 'notise', did you mean notice"),
        ({"sleep": 5}, "unknown step 'sleep'; known are notice, wake, spawn, event, park"),
        ({"notice": 0}, "notice must be None, or seconds above 0"),
        ({"wake": -1}, "wake must be None, or seconds above 0"),
        ({"wake": True}, "wake must be None, or seconds above 0"),
        ({"wake": float("nan")}, "wake must be None, or seconds above 0"),
        ({"wake": "soon"}, "wake must be None, or seconds above 0"),
        ({"notice": 301}, r"wake \(300 s\) must not come before notice \(301 s\)"),
        ({"wake": 60, "spawn": None}, r"wake \(60 s\) must not come before notice \(120 s\)"),
        ({"wake": None, "spawn": 100}, r"spawn \(100 s\) must not come before notice \(120 s\)"),
    ],
)
def test_impossible_ones_are_refused(value: Any, text: str) -> None:
    """Each by its name, with what was seen."""
    with pytest.raises(SettingsError, match=rf"^setting perpetual_starvation.*{text}"):
        read(value)


def test_a_task_says_what_differs() -> None:
    """Each value is checked at once, and the order where the app's setting is known."""
    with pytest.raises(ContractError, match=r"^perpetual option starvation: notice must be None, or seconds above 0"):
        PerpetualOptions(starvation={"notice": -5})
    app = Celery("shop", set_as_current=False)
    options = PerpetualOptions(starvation={"notice": 500})
    given: dict[str, Any] = {"base": PerpetualTask, "poll_every": 60, "next_batch": list, "perpetual_options": options}
    app.task(name="deliver", shared=False, **given)(nothing)

    must_climb(discover(app), read({"wake": 500}))
    with pytest.raises(
        ContractError, match=r"^task deliver: perpetual option starvation: wake \(300 s\) must not come"
    ):
        must_climb(discover(app), DEFAULT)


@pytest.mark.parametrize("value", ["nowhere.to.be.found", "celery_perpetual.errors.__all_of_it__", 5, {}])
def test_a_hook_that_is_none_is_refused(value: Any) -> None:
    """A name that cannot be imported, and what cannot be called."""
    app = Celery("shop", set_as_current=False)
    app.conf.perpetual_starvation_spawn = value
    with pytest.raises(SettingsError, match=r"^setting perpetual_starvation_spawn: "):
        Settings.from_app(app)


@pytest.mark.parametrize("value", [-1, 1.5, "2", True])
def test_a_bound_that_is_none_is_refused(value: Any) -> None:
    """Only whole numbers from 0 on."""
    app = Celery("shop", set_as_current=False)
    app.conf.perpetual_max_pool_grow = value
    with pytest.raises(SettingsError, match=r"^setting perpetual_max_pool_grow must be a whole number of at least 0"):
        Settings.from_app(app)
