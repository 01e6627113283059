"""Polls that workers evaluate do not wait behind the items of a queue, on a broker that is not the store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from kombu import Queue

from celery_perpetual import Perpetual, PerpetualOptions, PerpetualTask
from tests.support import wait_until
from tests.support.contract import nothing
from tests.support.leading import LeadingClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

# That is how the threads of a clock are ended here.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

POLL = "celery_perpetual.poll"


def tasks_in(app: Celery, queue: str) -> list[str]:
    """Names of the tasks whose messages a consumer would get, in this order; they are taken out."""
    found = []
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        while (message := channel.basic_get(queue, no_ack=True)) is not None:
            found.append(message.headers["task"])
    return found


def depth(app: Celery, queue: str) -> int:
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        return int(channel.queue_declare(queue, passive=True).message_count)


@pytest.mark.parametrize("way", ["priority", "queue", "neither"])
def test_a_poll_overtakes_items_by_priority_or_in_its_own_queue(
    way: str, rabbitmq_url: str, redis_url: str, make_app: Callable[..., Celery]
) -> None:
    """A queue with priorities brings the poll first; a queue of its own has nothing else; else it comes last."""
    arguments = {"x-max-priority": 5} if way == "priority" else None
    queues = [Queue("items", routing_key="items", queue_arguments=arguments), Queue("polls", routing_key="polls")]
    config = {"task_queues": queues, "task_default_queue": "items", "perpetual_store_url": redis_url}
    app = make_app(broker_url=rabbitmq_url, **config)
    perpetual = Perpetual(app)
    options = PerpetualOptions(poll_in="worker", poll_queue="polls" if way == "queue" else None)
    task = app.task(
        name="work", base=PerpetualTask, shared=False, poll_every=3600, next_batch=list, perpetual_options=options
    )(nothing)
    for _ in range(20):
        task.delay()
    clock, where = LeadingClock(perpetual), "polls" if way == "queue" else "items"
    before = 0 if way == "queue" else 20
    app.send_task("declares", queue="polls")
    wait_until(lambda: clock.turn() or _arrived(app, where, before), "the poll is on its way", interval=0.02)
    waiting = {queue: tasks_in(app, queue) for queue in ("items", "polls")}
    clock.close()
    perpetual.store.close()

    assert waiting["items"].count("work") == 20
    if way == "queue":
        assert waiting == {"items": ["work"] * 20, "polls": ["declares", POLL]}
    else:
        assert waiting["items"].index(POLL) == (0 if way == "priority" else 20)


def _arrived(app: Celery, queue: str, before: int) -> bool:
    return depth(app, queue) > before + (queue == "polls")
