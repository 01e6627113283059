"""Handlers of ours meet stand-ins in place of Celery's objects, as other people's unit tests use them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest
from celery import Celery, signals
from celery.backends.base import Backend

from celery_perpetual import Perpetual
from celery_perpetual.leases.execution import current


@pytest.fixture(params=["perpetual", "all"])
def app(request: pytest.FixtureRequest, make_app: Callable[..., Celery], redis_url: str) -> Iterator[Celery]:
    """A wired app with an ordinary task, for leases and completions of some or of all tasks."""
    app = make_app(
        result_backend=redis_url, perpetual_leases=request.param, perpetual_completions=request.param
    )  # fmt: skip
    perpetual = Perpetual(app)

    def ordinary() -> None: ...

    app.task(name="ordinary", shared=False)(ordinary)
    yield app
    perpetual.store.close()


# Celery calls methods of redis-py that are deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("stand_in", [Mock, MagicMock])
@pytest.mark.parametrize(
    ("signal", "facts"),
    [
        (signals.task_postrun, {"task_id": "an id", "state": "SUCCESS"}),
        (signals.task_prerun, {"task_id": "another id"}),
        (signals.task_failure, {"task_id": "an id", "exception": ValueError()}),
        (signals.task_revoked, {"expired": False}),
        (signals.task_internal_error, {"task_id": "an id", "exception": ValueError()}),
        (signals.task_rejected, {}),
        (signals.task_unknown, {"id": "an id", "name": "ordinary"}),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_signals_with_stand_ins_raise_in_no_handler(
    app: Celery, caplog: pytest.LogCaptureFixture, signal: Any, facts: dict[str, Any], stand_in: type[Mock]
) -> None:
    """No stand-in for a task, its app, a request or a message makes a handler raise."""
    for sender in (stand_in(), app.tasks["ordinary"], stand_in(app=app), stand_in(name="ordinary", app=app)):
        replies = signal.send(sender=sender, **{"request": stand_in(), "message": stand_in(), "exc": None, **facts})
        assert [reply for _, reply in replies if isinstance(reply, Exception)] == []

    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("stand_in", [Mock, MagicMock])
def test_a_backend_fails_what_stands_in_for_a_request_or_a_callback(app: Celery, stand_in: type[Mock]) -> None:
    """Celery's own code does, and so does what stands around it."""
    backend = Backend(app=app)
    backend.store_result = Mock()  # type: ignore[method-assign]
    request = stand_in()
    request.chain = stand_in()
    request.errbacks = []

    backend.mark_as_failure("an id", ValueError("on purpose"), request=request, call_errbacks=False)

    assert backend.store_result.call_count >= 1


def test_tasks_that_begin_and_never_end_are_not_kept(app: Celery) -> None:
    """A test sends ``task_prerun`` and no ``task_postrun``; a task that a body calls is still one inside the other."""
    task = app.tasks["ordinary"]
    for number in range(100):
        signals.task_prerun.send(sender=task, task_id=f"abandoned {number}", task=task, args=(), kwargs={})
    depth, execution = 0, current()
    while execution is not None:
        depth, execution = depth + 1, execution.outer

    assert depth <= 1
    seen: list[str | None] = []

    def outer() -> None:
        task.apply(task_id="inner")
        seen.append(getattr(current(), "task_id", None))

    app.task(name="outer", shared=False)(outer).apply(task_id="outer")
    assert seen == ["outer"] or (seen != ["inner"] and app.conf.perpetual_completions != "all")
