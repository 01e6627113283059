"""Errors of publishers that say that this process cannot use the broker, and those that say something else."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from amqp.exceptions import AccessRefused
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from kombu.exceptions import OperationalError

from celery_perpetual import Item
from celery_perpetual.broker.queue_sizes import size_of
from celery_perpetual.publishing import reach as reaching
from celery_perpetual.publishing.reach import Reach
from celery_perpetual.recovery.resend import Resender

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery_perpetual.embedded import EmbeddedServer
    from tests.support.watched_app import WatchedApp

NOBODY = "redis://127.0.0.1:1/0"


def reported(broker: str, error: Exception) -> list[Exception | None]:
    """The reports that one error leads to."""
    with Celery("shop", broker=broker, set_as_current=False) as app:
        reach, found = Reach(app), list[Exception | None]()
        reach.heard = found.append
        with pytest.raises(type(error)), reach.watched():
            raise error
    return found


def of_a_channel(text: str) -> Exception:
    """As kombu passes errors of a channel on."""
    error = OperationalError(text)
    error.__cause__ = AccessRefused(text)
    return error


def test_a_broker_that_answers_is_in_reach(redis_server: EmbeddedServer) -> None:
    """A right on one exchange is missing: others are accepted. Without a connection it is out of reach."""
    for error in (
        AccessRefused("to exchange 'orders'"),
        of_a_channel("to exchange 'orders'"),
        ValueError("a router's"),
    ):
        assert reported(redis_server.url, error) == []
    assert reported(NOBODY, error) == [error]
    for error in (OperationalError("no route"), ConnectionRefusedError()):
        assert reported(redis_server.url, error) == [error]


@pytest.mark.parametrize("error", [AccessRefused("to exchange 'orders'"), of_a_channel("to exchange 'orders'")])
def test_a_broker_that_refuses_everything_for_a_while_is_out_of_reach(
    error: Exception, redis_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another beat may have rights, or queues with other arguments.

    What is accepted in between begins it anew, and so does a refusal long after the last one.
    """
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(reaching, "time", clock)
    with Celery("shop", broker=redis_server.url, set_as_current=False) as app:
        reach, found = Reach(app), list[Exception | None]()
        reach.heard = found.append

        def refused_at(now: float) -> list[Exception | None]:
            clock.now = now
            with pytest.raises(type(error)), reach.watched():
                raise error
            found_now, found[:] = list(found), []
            return found_now

        assert refused_at(100) == refused_at(102) == []
        reach.report()
        assert found.pop() is None
        assert refused_at(104) == refused_at(106) == []
        assert refused_at(107) == [error]
        assert refused_at(700) == [error]
        assert reach.failed
        assert refused_at(90_000) == refused_at(90_002) == []
        assert refused_at(90_003) == [error]


def test_what_another_process_has_published_is_no_trouble_any_more(
    watched_app: Callable[..., WatchedApp], redis_url: str
) -> None:
    """A batch could not be published here. While it is open that counts; then nothing is left to publish."""
    one = watched_app(broker_url=NOBODY, perpetual_store_url=redis_url, task_publish_retry=False)
    publisher, found = one.perpetual.runner.publisher, list[Exception | None]()
    publisher.broker.heard = found.append
    outcome = one.poll([Item((1,), key=False)])
    one.redis.zadd("perpetual:outbox", {outcome.poll_id: (time.time() + 60) * 1000})  # the next try comes later
    publisher.relay()
    assert found
    assert None not in found

    one.redis.zrem("perpetual:outbox", outcome.poll_id)  # as a publisher that has come to its end
    publisher.relay()
    assert found.pop() is None

    publisher.relay()
    assert None not in found


def test_the_end_of_a_task_says_nothing_of_its_broker() -> None:
    """Its time is over: the broker is not asked."""
    assert reported(NOBODY, SoftTimeLimitExceeded()) == []


def test_each_broker_of_a_list_is_tried(
    watched_app: Callable[..., WatchedApp], rabbitmq_url: str, redis_url: str
) -> None:
    """The third one accepts the messages of a poll, what is lost of them, and questions."""
    brokers = ["amqp://127.0.0.1:1//", "amqp://127.0.0.1:2//", rabbitmq_url]
    one = watched_app(broker_url=brokers, perpetual_store_url=redis_url)

    outcome = one.poll([Item((n,), key=False) for n in range(3)])

    assert one.redis.exists("perpetual:outbox") == 0
    one.redis.zadd("perpetual:resend", {outcome.task_ids[0]: 1})
    assert Resender(one.app, one.perpetual.store, broker_is_redis=False).send_all() == 1
    with Celery("shop", broker=rabbitmq_url, set_as_current=False).connection() as connection:
        assert size_of(connection, "celery") == 4
    one.app.conf.broker_write_url = brokers[:2] * 2
    assert not reaching.broker_answers(one.app)
