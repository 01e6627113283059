"""The text of a result that Celery's backend is owed: as much as can be kept."""

from __future__ import annotations

from typing import Any

import pytest
from celery.app.task import Context

from celery_perpetual.completions.owing import OwedResult


class Opaque:
    """An argument that JSON cannot carry."""


@pytest.mark.parametrize("args", [(1, "two"), (Opaque(),), ("x" * 600_000,)], ids=["plain", "opaque", "long"])
def test_arguments_that_cannot_be_kept_are_left_out(args: tuple[Any, ...]) -> None:
    """The facts on what fails with the task are still there."""
    request = Context({"id": "a", "task": "deliver", "args": args, "errbacks": [{"task": "report"}]})
    owed = OwedResult(task="deliver", state="FAILURE", exception=ValueError("no", 3), traceback="at", request=request)

    read = OwedResult.from_text(owed.to_text())

    assert read.exception == {"exc_type": "ValueError", "exc_message": ["no", 3], "exc_module": "builtins"}
    assert (read.request.id, read.request.errbacks) == ("a", [{"task": "report"}])
    assert (read.request.args, read.traceback) == (([1, "two"], "at") if args[0] == 1 else (None, None))
    chain = [{"task": "deliver", "args": args}]
    behind = OwedResult(task="deliver", state="FAILURE", exception=ValueError("no"), request=Context({"chain": chain}))
    assert behind.keeps_rest == (args[0] == 1)
    vast = OwedResult(task="deliver", state="FAILURE", exception=ValueError("x" * 600_000))
    assert "too long" in str(OwedResult.from_text(vast.to_text()).exception)
