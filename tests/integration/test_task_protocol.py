"""An app with task protocol 1 sends its own tasks by the protocol of its choice, and ours by protocol 2."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from celery_perpetual import Perpetual, PerpetualTask
from celery_perpetual.ledger.ids import parse_item_id
from tests.support.watched_app import nothing

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis
    from celery import Celery

    from tests.support.watched_app import WatchedApp


def protocols(messages: list[dict[str, Any]]) -> list[int]:
    """Protocol 2 keeps the arguments in a list, and the id among the headers."""
    bodies = [json.loads(base64.b64decode(message["body"])) for message in messages]
    return [1 if isinstance(body, dict) else 2 for body in bodies]


@pytest.mark.parametrize("is_late", [False, True], ids=["wired at once", "wired when messages have been sent"])
def test_messages_of_ours_are_of_protocol_2(
    make_app: Callable[..., Celery], store_redis: redis.Redis, is_late: bool
) -> None:
    """By the task, by the id of an item, or by the header; however they are sent."""
    app = make_app(task_protocol=1)
    plain = app.task(name="app.plain", shared=False)(nothing)
    if is_late:
        plain.delay()
    Perpetual(app)
    ours = app.task(name="app.ours", shared=False, base=PerpetualTask)(nothing)

    plain.delay()
    ours.delay()
    app.send_task("app.ours")
    plain.apply_async(headers={"perpetual": 1})
    plain.apply_async(task_id="01a22a6e-8ca0-805e-a593-bfbd00000000")
    app.send_task("app.unknown")

    sent = [json.loads(text) for text in reversed(store_redis.lrange("celery", 0, -1))]
    assert protocols(sent) == [*([1] if is_late else []), 1, 2, 2, 2, 2, 1]


def test_with_all_leases_all_messages_are_of_protocol_2(
    make_app: Callable[..., Celery], store_redis: redis.Redis
) -> None:
    """But for those of tasks that are not registered here: it is not known whether these need a lease."""
    app = make_app(task_protocol=1, perpetual_leases="all")
    Perpetual(app)
    plain = app.task(name="app.plain", shared=False)(nothing)

    plain.delay()
    app.send_task("app.unknown")

    sent = [json.loads(text) for text in reversed(store_redis.lrange("celery", 0, -1))]
    assert protocols(sent) == [2, 1]


def test_items_are_stamped_all_the_same(watched_app: Callable[..., WatchedApp]) -> None:
    """Their messages are as with protocol 2."""
    one = watched_app(task_protocol=1)

    one.poll([(n,) for n in range(20)])

    assert one.stamped
    assert protocols(one.messages()) == [2] * 20
    assert all(parse_item_id(message["headers"]["id"]) is not None for message in one.messages())
