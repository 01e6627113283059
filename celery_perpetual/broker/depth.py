"""The queue of a task, and how many messages wait in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.questions import connection_for_questions, is_not_found
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


def queue_of(app: Celery, task: Any) -> str:
    """Name of the queue to which the app's routes send a task. May run a router of the user's."""
    route: Any = app.amqp.router.route(task._get_exec_options(), task.name)  # noqa: SLF001  # where its messages go
    queue = route.get("queue")
    return str(getattr(queue, "name", queue) or app.conf.task_default_queue)


def known_queue(app: Celery, task: Any) -> str:
    """As :func:`queue_of`; "" where a router raises an error, which is reported."""
    try:
        return queue_of(app, task)
    except Exception as error:
        emit(events.QUEUE_UNKNOWN, task=task.name, error=error)
        return ""


def depth_of(app: Celery, queue: str) -> int:
    """Messages that wait in a queue; those that workers have received and not acknowledged do not count.

    Raises:
        Exception: whatever the transport raises where the broker does not answer.
    """
    with connection_for_questions(app) as connection:
        try:
            channel: Any = connection.default_channel
            return int(channel.queue_declare(queue, passive=True).message_count)
        except connection.channel_errors as error:
            if is_not_found(error):
                return 0  # on Redis an empty queue is not there
            raise
