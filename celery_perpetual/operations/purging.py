"""Empties a queue, and ends the tasks whose messages were in it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from celery.exceptions import TaskRevokedError

from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.depth import depth_of
from celery_perpetual.broker.queues import waiting_ids
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import REVOKED
from celery_perpetual.completions.end import FIRST, TaskEnd
from celery_perpetual.errors import NotFound
from celery_perpetual.leases.interest import announces, interest_by
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.namespace import Namespace
from celery_perpetual.worker.propagation import embedded, end_rest

#: Messages of a queue that are read to count its items.
MOST_READ = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueContents:
    """The messages that wait in a queue."""

    messages: int
    """Without those that workers have received."""
    read: int
    """How many of them were read; 0 on a broker that does not show its messages."""
    items: int
    """How many of those are items of perpetual tasks or runs of routines."""


def contents(namespace: Namespace, queue: str) -> QueueContents:
    """Count the messages that a purge would remove; changes nothing.

    Raises:
        NotFound: neither the app nor the broker knows such a queue.
        StoreUnavailable: the store did not answer.
    """
    with namespace.app.connection_for_write() as connection:
        _known_queue(namespace, connection, queue)
    read = items = 0
    if namespace.grants.broker_is_redis:
        with closing(CapturingChannel(namespace.app)) as channel:
            for task_id in waiting_ids(channel, queue, MOST_READ):
                read += 1
                items += parse_item_id(task_id) is not None
    return QueueContents(messages=max(read, depth_of(namespace.app, queue)), read=read, items=items)


def purge(namespace: Namespace, queue: str, progress: Callable[[int], object] | None = None) -> int:
    """Take every message out of a queue and end its tasks as revoked; returns how many messages there were.

    A task that a worker runs just now, of which the queue had a second message, goes on.

    Args:
        namespace: of the app.
        queue: its name.
        progress: called with the number of messages after each hundred.

    Raises:
        NotFound: neither the app nor the broker knows such a queue.
        StoreUnavailable: the store did not answer; what has been taken out by then is missed, and sent again.
    """
    count = 0
    with namespace.app.connection_for_write() as connection:
        bound = _known_queue(namespace, connection, queue)
        while (message := bound.get(no_ack=True)) is not None:
            count += 1
            if progress is not None and count % 100 == 0:
                progress(count)
            headers = message.headers or {}
            task_id, name = str(headers.get("id")), str(headers.get("task"))
            task = namespace.app.tasks.get(name)
            if interest_by(namespace.settings, task, task_id, headers):
                revoked = TaskEnd(task_id=task_id, task=name, status=REVOKED, announce=announces(task))
                # A task that runs, or has ended, loses one more copy of its message and nothing else.
                if namespace.announcer.announce_now(revoked) != FIRST:
                    continue
                celery_results.store_revoked(namespace.app, task_id, "purged")
            end_rest(namespace.app, embedded(message), REVOKED, TaskRevokedError("purged"))
    return count


def _known_queue(namespace: Namespace, connection: Any, name: str) -> Any:
    """A queue that the app or the broker knows, bound to a connection.

    Raises:
        NotFound: neither knows it.
    """
    queues: Any = namespace.app.amqp.queues
    queue = (dict.get(queues, name) or queues.new_missing(name))(connection.default_channel)
    if name not in queues:
        try:
            queue.queue_declare(passive=True)
        except connection.channel_errors as error:
            known = ", ".join(sorted(queues))
            raise NotFound(f"queue {name!r} was not purged: this app does not know it; it knows {known}") from error
    return queue
