"""Remote control commands by which a leader gets waiting items started: open a consumer anew, add pool processes.

A consumer may be gone without its worker knowing: a broker that was failed over, a queue that was deleted and made
again, a channel on which the consumer was cancelled. The worker waits then for messages that are never sent to it.
"""

from __future__ import annotations

from typing import Any

from celery.worker import control
from celery.worker.control import control_command

from celery_perpetual import events
from celery_perpetual.telemetry import emit

WAKE, GROW = "perpetual_wake", "perpetual_grow"


@control_command(name=WAKE, args=[("queue", str)], signature="<queue>")
def wake(state: Any, queue: str, **_: Any) -> dict[str, str]:
    """Open the consumer of a queue anew, if this worker is to consume it."""
    consumer = state.consumer
    if queue not in consumer.app.amqp.queues.consume_from:
        return {"error": f"this worker does not consume {queue}"}
    # Not now: on Redis this command is read in the very step that a consumer must not be cancelled in.
    consumer.call_soon(_open_anew, consumer, queue)
    return {"ok": f"the consumer of {queue} is opened anew"}


def _open_anew(consumer: Any, queue: str) -> None:
    """Cancel a consumer and make it again; what it has received and not begun stays with the worker.

    First its queue is declared on a channel of its own: a broker closes the channel on which a queue is declared
    otherwise than it is, and on the worker's channel all of its consumers would be gone with that.
    """
    task_consumer = consumer.task_consumer
    if task_consumer is None:  # the worker has no connection, and opens all consumers when it has one
        return
    found, reconnects = consumer.app.amqp.queues[queue], consumer.connection_errors
    try:
        with consumer.connection.channel() as probe:
            found(probe).declare()
        reconnects = (*reconnects, *consumer.channel_errors)
        task_consumer.cancel_by_queue(queue)
        task_consumer.add_queue(found)
        task_consumer.consume()
    except Exception as error:
        if isinstance(error, reconnects):
            raise  # Celery connects anew, with all consumers
        emit(events.PART_FAILED, part=f"the consumer of queue {queue}", error=error)
    else:
        emit(events.CONSUMER_REOPENED, queue=queue)


@control_command(name=GROW, args=[("most", int)], signature="<most>")
def grow(state: Any, most: int, **_: Any) -> dict[str, Any]:
    """Add pool processes until there are ``most`` more than the worker was started with."""
    consumer = state.consumer
    worker = consumer.controller
    if getattr(worker, "autoscaler", None) is not None:
        return {"error": "an autoscaler decides how many processes this worker has"}
    missing = int(worker.concurrency) + most - int(consumer.pool.num_processes)
    if missing <= 0:
        return {"error": f"it has {consumer.pool.num_processes} processes, and perpetual_max_pool_grow is {most}"}
    if not hasattr(consumer.pool, "grow"):
        return {"error": "a pool of this kind cannot grow"}
    celerys: Any = control
    celerys.pool_grow(state, n=missing)
    return {"ok": missing}
