"""Questions to a broker that keeps its connections open and answers nothing end, and the next ones are answered."""

from __future__ import annotations

import socket
import time
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from celery_perpetual.broker import questions
from celery_perpetual.broker.depth import depth_of
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.broker.queue_sizes import QueueSizes
from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

    from tests.support.watched_app import WatchedApp

HERE, THERE = Destination("", "here", None), Destination("", "there", None)


def test_a_question_without_an_answer_ends(
    make_app: Callable[..., Celery], rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is forgotten between two questions; a new connection is answered."""
    monkeypatch.setattr(questions, "LONGEST_ANSWER", 0.5)
    where = urlsplit(rabbitmq_url)
    assert where.port is not None
    with Proxy(where.port) as proxy:
        app = make_app(broker_url=rabbitmq_url.replace(str(where.port), str(proxy.port)))
        sizes = QueueSizes(app, {}, set())
        assert sizes.are_empty(HERE)

        proxy.forget()
        with pytest.raises(TimeoutError):
            sizes.are_empty(THERE)
        sizes.close()

        with closing(QueueSizes(app, {}, set())) as others:
            assert others.are_empty(THERE)
        assert depth_of(app, "here") == 0


def test_a_pass_goes_on_beside_a_redis_broker_that_hangs(
    watched_app: Callable[..., WatchedApp], redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store is another server: only the steps that need the broker fail, and the pass after it is whole.

    A dead worker is forgotten only when what it had received could be put back; none keeps the leases of another.
    """
    monkeypatch.setattr(questions, "LONGEST_ANSWER_OF_REDIS", 0.4)
    with socket.create_server(("127.0.0.1", 0), backlog=50) as silent:
        one = watched_app(broker_url=f"redis://127.0.0.1:{silent.getsockname()[1]}/0", perpetual_store_url=redis_url)
        one.redis.zadd("perpetual:workers", {"odd@host#0": 1, "dead@host#1": 2, "dead@host#2": 3})
        one.redis.set("perpetual:held:odd@host#0", "no set")
        one.redis.sadd("perpetual:held:dead@host#2", "swept")
        began = time.monotonic()

        first = one.perpetual.cycle()

        assert time.monotonic() - began < 20
        assert "sweep" in first.errors
        assert not first.errors.keys() & {"counts", "orphans", "alerts"}
        assert one.redis.zrange("perpetual:workers", 0, -1) == ["odd@host#0", "dead@host#1", "dead@host#2"]
        assert not one.redis.exists("perpetual:held:dead@host#2")
        one.redis.delete("perpetual:held:odd@host#0")
        one.app.conf.broker_url = one.app.conf.broker_write_url = redis_url.replace("/0", "/1")
        assert one.perpetual.cycle().errors == {}
        assert not one.redis.exists("perpetual:workers")
