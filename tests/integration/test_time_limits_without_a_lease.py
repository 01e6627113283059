"""A retry that has begun while the store was away runs out of its time when the store is back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
from celery.worker.request import Request

from celery_perpetual.worker.request import leased_request
from tests.support.contract import begin

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.watched_app import WatchedApp


# Celery's backend calls it.
SETEX = pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")


@pytest.fixture
def retry(watched_app: Callable[..., WatchedApp], redis_url: str) -> Any:
    """The first task of a chain, as the main process of a worker has it whose pool runs its retry; and its app."""
    one = watched_app(result_backend=redis_url)
    task = one.task([], name="deliver")
    (task.si(1).set(task_id="first") | task.si(2).set(task_id="rest")).apply_async()
    execution = begin(one.perpetual, "first")
    assert execution.leased
    one.perpetual.grants.release("first", execution.nonce, "wait")  # it is retried
    with one.app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=10)
        message.headers["retries"] = 1
        request = leased_request(Request)(
            message, app=one.app, task=task, hostname="w@host", on_ack=message.ack_log_error
        )
        request.time_start = time.time()
        yield one, request


def announced(one: WatchedApp) -> list[str]:
    """Which tasks of the chain have ended, as the store knows it."""
    return [name for name in ("first", "rest") if one.redis.exists(f"perpetual:completion:{name}")]


@SETEX
def test_a_retry_without_a_lease_ends_and_its_chain_with_it(retry: tuple[WatchedApp, Any]) -> None:
    """The state of a task that is retried is that of this very run, and not of one that comes after it."""
    one, request = retry

    request.on_timeout(soft=False, timeout=1)

    assert announced(one) == ["first", "rest"]
    assert not one.redis.hexists("perpetual:states", "first")


@SETEX
def test_a_retry_that_has_a_successor_does_not_end(retry: tuple[WatchedApp, Any]) -> None:
    """It ran under a lease, and its time is over just after it has been retried once more."""
    one, request = retry
    execution = request.perpetual_execution
    one.perpetual.grants.start(request.task, execution, request.request_dict)
    one.perpetual.grants.release("first", execution.nonce, "wait")

    request.on_timeout(soft=False, timeout=1)

    assert announced(one) == []
    assert one.redis.hexists("perpetual:states", "first")
