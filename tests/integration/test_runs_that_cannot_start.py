"""Runs of routines that are lost before they begin, or cannot be published: they end, and their routines go on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import Task

from celery_perpetual import Retries
from celery_perpetual.recovery.losses import declare_lost
from tests.support.routines import World
from tests.support.waiting import wait_until
from tests.support.watched_app import nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from tests.support.watched_app import WatchedApp


class OwnSender(Task):
    """Publishes its messages itself, and cannot."""

    abstract = True

    def apply_async(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("the account is closed")


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"], indirect=True)
def test_a_run_that_cannot_be_published(
    watched_app: Callable[..., WatchedApp], redis_url: str, broker: dict[str, Any]
) -> None:
    """Known only after the step that starts it: it fails with the reason, and is tried again as after any failure."""
    urls = {"broker_url": broker["broker"]} if broker else {}
    one = watched_app(**urls, perpetual_store_url=redis_url)
    one.app.task(nothing, name="app.own", base=OwnSender, shared=False)
    routines = one.perpetual.routines
    made = routines.create("app.own", every=3600, retries=Retries(max_attempts=2, backoff=0))

    for attempt, state in ((1, "retry_waiting"), (2, "active")):
        (run,) = routines.run_due()
        assert (run.attempt, run.status) == (attempt, "enqueued")
        wait_until(lambda state=state: routines.get(made.id).state == state, f"attempt {attempt} has ended")  # type: ignore[misc]
        error = routines.get(made.id).last_error
        assert error is not None
        assert "it cannot be published: PermissionError: the account is closed" in error["message"]
        assert one.perpetual.wait(run.task_id, timeout=5).status == "failure"

    assert list(one.perpetual.parked()) == []
    assert (routines.get(made.id).run_count, routines.get(made.id).attempt_count) == (1, 0)


def test_a_message_that_kills_every_worker(make_app: Callable[..., Celery], store_redis: redis.Redis) -> None:
    """It is resent as often as the task may be recovered, then the run is lost: nothing waits for an operator."""
    world = World(make_app(), store_redis)
    perpetual = world.perpetual
    made = world.create(at=world.now())
    (run,) = world.routines.run_due()

    verdicts = []
    for _ in range(4):
        verdicts.append(declare_lost(world.app, perpetual.grants, run.task_id, "app.work", counts=True))
        perpetual.cycle()

    assert verdicts == ["resend", "resend", "resend", "fail"]
    wait_until(lambda: world.routines.get(made.id).state == "exhausted", "its routine has ended")
    found = world.routines.get(made.id)
    assert (found.recovery_count, found.attempt_count) == (1, 1)
    assert found.last_error is not None
    assert found.last_error["type"] == "TaskLost"
    assert list(perpetual.parked()) == []
    assert not store_redis.exists("perpetual:routines:running")
    perpetual.store.close()
