"""Questions to a RabbitMQ that keeps its connections open and answers nothing end, and the next ones are answered."""

from __future__ import annotations

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
