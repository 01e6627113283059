"""Empties a queue, and ends the tasks whose messages were in it."""

from __future__ import annotations

from collections.abc import Callable

from celery.exceptions import TaskRevokedError

from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import REVOKED
from celery_perpetual.completions.end import FIRST, TaskEnd
from celery_perpetual.errors import NotFound
from celery_perpetual.leases.interest import announces, interest_by
from celery_perpetual.namespace import Namespace
from celery_perpetual.worker.propagation import embedded, end_rest


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
    count, is_known = 0, queue in namespace.app.amqp.queues
    with namespace.app.connection_for_write() as connection:
        bound = namespace.app.amqp.queues[queue](connection.default_channel)
        if not is_known:
            try:
                bound.queue_declare(passive=True)
            except connection.channel_errors as error:
                known = ", ".join(sorted(name for name in namespace.app.amqp.queues if name != queue))
                raise NotFound(
                    f"queue {queue!r} was not purged: this app does not know it; it knows {known}"
                ) from error
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
