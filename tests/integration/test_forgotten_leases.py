"""A store that has lost its data, while workers enter the leases of their executions anew."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from celery_perpetual import Perpetual, PerpetualTask
from tests.support.contract import begin, nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from celery_perpetual.leases.execution import Execution


def running(app: Celery) -> tuple[Perpetual, Execution]:
    """A wired app, and an execution that holds the lease of an item."""
    perpetual = Perpetual(app)
    items = [("row",)]
    app.task(name="deliver", base=PerpetualTask, shared=False, poll_every=3600, next_batch=lambda: items)(nothing)
    (task_id,) = perpetual.poll("deliver").task_ids
    return perpetual, begin(perpetual, task_id)


def test_a_lease_that_cannot_be_read_costs_no_result(make_app: Callable[..., Celery], raw_redis: redis.Redis) -> None:
    """A strange hand or another release has written it; the body has not failed for that."""
    perpetual, execution = running(make_app("shop"))
    raw_redis.hset("perpetual:leases", execution.task_id, "of another form")
    assert perpetual.grants.instance is not None

    perpetual.grants.instance.doubt()

    assert perpetual.grants.holds(execution)
    perpetual.store.close()


def test_an_execution_holds_its_lease_while_it_is_entered_anew(
    make_app: Callable[..., Celery], raw_redis: redis.Redis
) -> None:
    """At no moment is the lease taken for one that was given to another execution: not before it is entered, nor after."""
    perpetual, execution = running(make_app("shop"))
    task_id = execution.task_id
    lease = raw_redis.hget("perpetual:leases", task_id)
    assert lease is not None
    assert perpetual.grants.instance is not None
    is_over = threading.Event()

    def lose_and_enter() -> None:
        while not is_over.is_set():
            raw_redis.hdel("perpetual:leases", task_id)
            raw_redis.hset("perpetual:leases", task_id, lease)

    other = threading.Thread(target=lose_and_enter)
    other.start()
    try:
        for _ in range(2000):
            perpetual.grants.instance.doubt()
            assert perpetual.grants.holds(execution)
    finally:
        is_over.set()
        other.join()
        perpetual.store.close()
