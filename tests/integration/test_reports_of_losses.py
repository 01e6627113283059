"""Tasks that the death of a worker interrupted are reported when they are sent again, many in one line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from celery_perpetual.leases.execution import Execution
from celery_perpetual.recovery.sweep import Sweep

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from tests.support.watched_app import WatchedApp


def begin_and_die(one: WatchedApp, count: int, **options: Any) -> list[str]:
    """Begin tasks in a worker that is not heard of any more; their ids."""
    perpetual, store = one.perpetual, one.perpetual.store
    ids = one.poll([(n,) for n in range(count)], **options).task_ids
    perpetual.grants.be_a_worker("host")
    for task_id in ids:
        perpetual.grants.start(one.app.tasks["app.work"], Execution(task_id=task_id, nonce=uuid4().hex), {})
    for worker in store.redis.zrange(store.keys.workers, 0, -1):
        store.redis.zadd(store.keys.workers, {worker: 1})
    return list(ids)


def test_interrupted_tasks_are_reported_in_one_line(
    watched_app: Callable[..., WatchedApp], caplog: pytest.LogCaptureFixture
) -> None:
    """Ten of them by id, name and recoveries, the rest by their number."""
    one = watched_app()
    ids = begin_and_die(one, 100)

    with caplog.at_level(logging.WARNING, "celery_perpetual"):
        assert Sweep(one.app, one.perpetual.grants).once().sent == 100

    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "perpetual.task.resent"]
    text = record.getMessage()
    assert text.startswith("perpetual: sent again 100 tasks: ")
    assert text.endswith(" and 90 more")
    assert text.count("(app.work, recovery 1)") == 10
    assert sum(task_id in text for task_id in ids) == 10


def test_parked_tasks_are_reported_in_one_line(
    watched_app: Callable[..., WatchedApp], caplog: pytest.LogCaptureFixture
) -> None:
    """The leader says which tasks its sweep parks, as an error: an operator must act."""
    one = watched_app()
    ids = begin_and_die(one, 30, on_lost="park")

    with caplog.at_level(logging.WARNING, "celery_perpetual"):
        assert Sweep(one.app, one.perpetual.grants).once().leases == 30

    (record,) = [each for each in caplog.records if getattr(each, "event", "") == "perpetual.lease.parked"]
    text = record.getMessage()
    assert record.levelname == "ERROR"
    assert text.startswith("perpetual: parked 30 tasks that a worker executed when it died: ")
    assert text.endswith(" and 20 more")
    assert text.count("(app.work, recovery 1)") == 10
    assert sum(task_id in text for task_id in ids) == 10
    assert {each.task_id for each in one.perpetual.parked()} == set(ids)
