"""A process of the pool is gone while Celery's result backend is away, and its task is to fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from billiard.einfo import ExceptionInfo
from celery.exceptions import WorkerLostError
from celery.worker.request import Request

from celery_perpetual import Item
from celery_perpetual.worker.request import leased_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support.watched_app import WatchedApp


@pytest.mark.filterwarnings("ignore:Call to deprecated setex:DeprecationWarning")  # of Celery's backend
def test_its_failure_is_owed_until_the_backend_is_back(
    watched_app: Callable[..., WatchedApp], private_redis: Callable[..., EmbeddedServer]
) -> None:
    """Its end is announced at once; the store keeps what the backend is owed, and this process keeps nothing of it."""
    backend = private_redis(appendonly=True)
    one = watched_app(
        result_backend=backend.url,
        result_backend_max_retries=0,
        result_backend_transport_options={"retry_policy": {"max_retries": 0}},
    )
    task = one.task([Item((1,), key=False)], on_lost="fail")
    (task_id,) = one.perpetual.poll(task).task_ids
    with one.app.connection_for_read() as connection:
        message = connection.SimpleQueue("celery").get(timeout=10)
        one.perpetual.grants.be_a_worker("host")
        request = leased_request(Request)(
            message, app=one.app, task=task, hostname="w@host", on_ack=message.ack_log_error
        )
        execution = request.perpetual_execution
        assert execution is not None
        one.perpetual.grants.start(task, execution, request.request_dict)
        backend.stop()
        try:
            raise WorkerLostError("signal 9")
        except WorkerLostError:
            lost = ExceptionInfo()
        request.on_failure(lost)

        assert one.perpetual.completion(task_id).status == "lost"
        redis, owed = one.perpetual.store.redis, one.perpetual.store.keys.owed
        assert redis.zrange(owed, 0, -1) == [task_id.encode()]
        backend.start()
        redis.zadd(owed, {task_id: 1})

        assert one.perpetual.cycle().put_off == {}

        assert one.app.AsyncResult(task_id).state == "FAILURE"
        assert redis.zcard(owed) == 0
