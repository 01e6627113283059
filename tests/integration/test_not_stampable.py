"""Polls for which Celery builds each message: all those whose messages may differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from celery import signals
from celery.app import amqp as celery_amqp
from kombu import Queue

from celery_perpetual import Item, PerpetualTask
from tests.support.watched_app import ROWS, WatchedApp

if TYPE_CHECKING:
    from collections.abc import Callable


class ShadowTask(PerpetualTask):
    """Names its messages after their arguments."""

    abstract = True

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
        return f"row {args[0]}"


def router(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> dict[str, Any] | None:
    return {"queue": f"q{args[0] % 2}"}


FALL_BACKS: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # what: (configuration, options of the task, options of every item)
    "router is a function": ({"task_routes": router}, {}, {}),
    "sent events": ({"task_send_sent_event": True}, {}, {}),
    "compression": ({"task_compression": "zlib"}, {}, {}),
    "compression of an item": ({}, {}, {"compression": "zlib"}),
    "queue that expires": ({"task_queues": [Queue("celery", expires=60)]}, {}, {}),
    "shadow name of the task": ({}, {"base": ShadowTask}, {}),
    "task expires": ({}, {"expires": 60}, {}),
    "expires": ({}, {}, {"expires": 60}),
    "countdown": ({}, {}, {"countdown": 60}),
    "stamps": ({}, {}, {"stamped_headers": ["mark"], "mark": "x"}),
    "unknown option": ({}, {}, {"message_id": "same"}),
}


@pytest.mark.parametrize("what", FALL_BACKS)
def test_what_may_differ_is_built_by_celery(what: str, watched_app: Callable[..., WatchedApp]) -> None:
    """Each line of the table: every message is built one by one, and all of them arrive."""
    config, task, options = FALL_BACKS[what]
    one = watched_app(**config)

    one.poll([Item((n,), **options) for n in range(ROWS)], **task)

    assert len(one.built) >= ROWS
    arrived = [key for key in one.redis.keys("*") if key in {"celery", "q0", "q1"}]
    assert sum(one.redis.llen(key) for key in arrived) == ROWS


def test_a_listener_before_the_publish_may_change_messages(
    watched_app: Callable[..., WatchedApp], listening: Any
) -> None:
    """before_task_publish sees every message and what it changes is sent."""
    one = watched_app()

    def mark(headers: Any = None, **_: Any) -> None:
        headers["mark"] = headers["argsrepr"]

    listening(signals.before_task_publish, mark)
    one.poll([(n,) for n in range(ROWS)])

    assert [message["headers"]["mark"] for message in one.messages()] == [f"({n},)" for n in range(ROWS)]


def test_a_link_is_built_by_celery(watched_app: Callable[..., WatchedApp]) -> None:
    """An item with a callback carries it."""
    one = watched_app()

    one.poll([Item((n,), link=one.app.signature("app.next")) for n in range(ROWS)])

    assert len(one.built) >= ROWS


def test_an_apply_async_of_the_tasks_own_is_called(watched_app: Callable[..., WatchedApp]) -> None:
    """The task's own method sends each message."""
    one = watched_app()
    called: list[Any] = []

    class Own(PerpetualTask):
        abstract = True

        def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
            called.append(args)
            return super().apply_async(args, kwargs, **options)

    one.poll([(n,) for n in range(ROWS)], base=Own)

    assert called == [(n,) for n in range(ROWS)]
    assert len(one.messages()) == ROWS


def test_a_patched_producer_is_used(watched_app: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing libraries put their own publish around Kombu's; they see every message."""
    import kombu

    one = watched_app()
    usual, seen = kombu.Producer.publish, []

    def publish(self: Any, *args: Any, **more: Any) -> Any:
        seen.append(more["headers"]["id"])
        return usual(self, *args, **more)

    monkeypatch.setattr(kombu.Producer, "publish", publish)
    outcome = one.poll([(n,) for n in range(ROWS)])

    assert seen == outcome.task_ids


def test_a_header_that_changes_is_noticed(
    watched_app: Callable[..., WatchedApp], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A difference that no rule foresees is seen by comparing: here an origin that is another one each time."""
    one = watched_app()
    numbers = iter(range(1000))
    monkeypatch.setattr(celery_amqp, "anon_nodename", lambda: f"node {next(numbers)}")

    one.poll([(n,) for n in range(ROWS)])

    assert len(one.built) >= ROWS
    assert len({message["headers"]["origin"] for message in one.messages()}) == ROWS
