"""The value that is stored for Celery is Celery's own, also where it is made of one that the backend has built before."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult

from celery_perpetual.completions import result_in_script

RESULTS = [
    None, True, False, 0, -7, 10**30, 0.1, -1e300, float("inf"), float("nan"), "", "plain", 'say "x"\n\\', "ünï \U0001f40d",
    [1, "two"], {"a": None}, (1, 2), "date_done", "the result of a task",
]  # fmt: skip
DATE = re.compile(r'"date_done": "[^"]*"')


def request(app: Celery, shape: str) -> Context:
    found = Context({"id": "x", "task": "proj.work", "group": "g" if shape == "in a group" else None,
                     "parent_id": "p" if shape == "in a chain" else None})  # fmt: skip
    if shape == "with children":
        children: list[Any] = found.children
        children.append(AsyncResult("child", app=app))
    return found


@pytest.mark.parametrize("timezone", ["UTC", "Asia/Kolkata"])
@pytest.mark.parametrize("extended", [False, True])
@pytest.mark.parametrize("shape", ["alone", "in a group", "in a chain", "with children"])
def test_the_value_is_the_one_that_the_backend_builds(shape: str, extended: bool, timezone: str) -> None:
    """Of every kind of result and task; the time is now, in the same form."""
    app = Celery("proj", broker="redis://", backend="redis://", set_as_current=False)
    app.conf.update(result_extended=extended, timezone=timezone)
    backend: Any = app.backend
    for result in RESULTS:
        for task_id in ("a4c1", 'an "id" of the user\'s'):
            asks = (backend, task_id, result, request(app, shape))
            made, built = result_in_script._value(*asks), result_in_script._built(*asks)[0]
            assert DATE.sub("", made) == DATE.sub("", built)
            dates = [json.loads(text)["date_done"] for text in (made, built)]
            assert dates[0][:10] <= dates[1][:10]
            assert dates[0][26:] == dates[1][26:] == ("+00:00" if timezone == "UTC" else "+05:30")


def test_most_values_are_made_without_the_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """One is built; what has another form is built each time."""
    app = Celery("proj", broker="redis://", backend="redis://", set_as_current=False)
    backend: Any = app.backend
    built: list[Any] = []
    original = backend._get_result_meta

    def building(**facts: Any) -> Any:
        built.append(facts["result"])
        return original(**facts)

    monkeypatch.setattr(backend, "_get_result_meta", building)

    for result in (1, "text", 2.5, [1]):
        result_in_script._value(backend, "id", result, request(app, "alone"))

    assert built == ["the result of a task", [1]]
