"""Results of tasks without a body, where Celery's backend is the store itself, cannot store them, or is none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from celery.result import AsyncResult

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.completions.celery_results import store_failure
from celery_perpetual.completions.owing import OwedResult, owe
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.owed import make_due

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from celery_perpetual.embedded import EmbeddedServer


pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's own


def test_a_store_that_is_away_too_gets_it_when_it_is_back(
    make_app: Callable[..., Celery], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Store and backend are one server here, which is the usual thing."""
    server = private_redis(appendonly=True)
    app = make_app(
        "shop", result_backend=server.url, perpetual_store_url=server.url, perpetual_store_timeout=0.5
    )  # fmt: skip
    perpetual = Perpetual(app)
    task = app.task(name="deliver", base=PerpetualTask, shared=False)(nothing)
    task_id = "9f0c4a6e-0000-4000-8000-000000000003"
    perpetual.store.now()
    server.stop()

    store_failure(app, task, task_id, ValueError("lost"))

    assert perpetual.announcer.down
    server.start()
    wait_until(lambda: perpetual.store.redis.zcard(perpetual.store.keys.owed), "the store has it")
    make_due(perpetual)
    perpetual.cycle()
    assert AsyncResult(task_id, app=app).state == "FAILURE"
    perpetual.store.close()


def test_a_result_for_which_there_is_no_way_is_given_up_at_once(
    make_app: Callable[..., Celery], store_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The rpc backend sends a result to the client that the task's request names, and here no request is left."""
    app = make_app("shop", result_backend="rpc://")
    perpetual = Perpetual(app)
    task_id = "9f0c4a6e-0000-4000-8000-000000000004"
    store_failure(app, app.task(name="deliver", base=PerpetualTask, shared=False)(nothing), task_id, ValueError("lost"))
    assert store_redis.zcard(perpetual.store.keys.owed) == 1
    make_due(perpetual)

    found = perpetual.cycle()

    assert (found.ok, found.put_off) == (True, {})
    assert [row for row in caplog.messages if "cannot store the result" in row and task_id in row]
    assert not store_redis.keys("perpetual:owed*")
    perpetual.store.close()


def test_no_result_is_owed_where_there_is_no_backend(
    make_app: Callable[..., Celery], store_redis: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """It could not be stored later either, and would be tried for a day."""
    app = make_app("shop")
    perpetual = Perpetual(app)
    task = app.task(name="deliver", base=PerpetualTask, shared=False)(nothing)

    owe(app, "a", OwedResult(task=task.name, state="FAILURE", exception=ValueError("lost")), OSError("away"))

    assert store_redis.zcard(perpetual.store.keys.owed) == 0
    assert [row for row in caplog.messages if "is not stored in the result backend" in row]
    perpetual.store.close()
