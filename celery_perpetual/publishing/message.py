"""Messages from records: what ``apply_async`` would have sent, but for the id, the header and the result backend.

Celery's own router and ``as_task_v2`` build the message and its own sender publishes it, so routing, priorities,
serializers, time limits, shadow names, stamps, signals and sent events are Celery's. The result backend is left out:
``apply_async`` makes the Redis backend subscribe to every id that it sends, for which this process does not wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Task as CeleryTask
from celery.utils.functional import maybe_list
from celery.utils.quorum_queues import detect_quorum_queues
from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu import Exchange
from kombu.transport.native_delayed_delivery import calculate_routing_key

from celery_perpetual.broker.destinations import Destination
from celery_perpetual.broker.native_delay import DELAYED
from celery_perpetual.ledger.record import Record
from celery_perpetual.tasks.task import HEADER, HEADER_VALUE, PerpetualTask

if TYPE_CHECKING:
    from celery import Celery

#: Options of ``send_task`` that go into the message's headers and not among its properties.
HEADER_OPTIONS = ("group_id", "group_index", "chain", "retries", "root_id", "parent_id", "replaced_task_nesting")


def has_own_sender(task: Any) -> bool:
    """Whether a task overrides ``apply_async``: then that method is what the user wants to be called."""
    if task is None:
        return False
    return type(task).apply_async not in (PerpetualTask.apply_async, CeleryTask.apply_async)


def route(app: Celery, record: Record) -> Mapping[str, Any]:
    """The options of a record's message after Celery's router has seen them."""
    task: Any = app.tasks.get(record.task)
    own = {} if task is None else task._get_exec_options()
    found: Mapping[str, Any] = app.amqp.router.route(
        {**own, **record.options}, record.task, record.args, record.kwargs, task
    )
    return found


def send(
    app: Celery,
    producer: Any,
    record: Record,
    task_id: str,
    sender: Callable[..., Any] | None = None,
    *,
    destination: Destination | None = None,
) -> None:
    """Publish the message of one record through ``producer``, by ``sender`` instead of Celery's if one is given.

    A publish that fails is not tried again here: a retry would revive the producer on another channel, one that
    neither captures nor confirms. The relay tries again.

    Args:
        destination: where an earlier message of this task went; then neither the router nor an ``apply_async`` of the
            user's own is asked again.
    """
    task = app.tasks.get(record.task)
    options = {**record.options, "retry": False}
    options["headers"] = {**(options.get("headers") or {}), HEADER: HEADER_VALUE}
    if has_own_sender(task) and destination is None:
        _send_by_task(app, producer, task, record, task_id, options)
    else:
        _send_by_record(
            app, producer, task, record, task_id, options, sender or app.amqp.send_task_message, destination
        )


def _send_by_task(app: Celery, producer: Any, task: Any, record: Record, task_id: str, options: dict[str, Any]) -> None:
    task.apply_async(record.args, record.kwargs, task_id=task_id, producer=producer, **options)
    consumer = getattr(app.backend, "result_consumer", None)
    if consumer is not None:  # undo the subscription that came with the call
        consumer.cancel_for(task_id)


def _send_by_record(
    app: Celery,
    producer: Any,
    task: Any,
    record: Record,
    task_id: str,
    options: dict[str, Any],
    sender: Callable[..., Any],
    destination: Destination | None,
) -> None:
    args, kwargs = record.args, record.kwargs
    shadow = options.pop("shadow", None)
    if task is not None:
        shadow = shadow or task.shadow_name(args, kwargs, options)
        options = {**task._get_exec_options(), **options}
        options.setdefault("ignore_result", task.ignore_result)
    special = {name: options.pop(name, None) for name in ("eta", "expires", "time_limit", "soft_time_limit")}
    link, link_error = options.pop("link", None), options.pop("link_error", None)
    ignore_result = options.pop("ignore_result", None)
    in_headers = {name: options.pop(name) for name in HEADER_OPTIONS if name in options}
    for name in ("add_to_parent", "route_name"):
        options.pop(name, None)
    if destination is None:
        options = app.amqp.router.route(options, record.task, args, kwargs, task)
    else:
        options = {**options, **_to(app, destination)}
    if special["eta"] is not None:
        options = _delayed_by_broker(app, producer, special["eta"], options)
    if special["expires"] is not None:
        options["expiration"] = max(0.0, _seconds_until(app, special["expires"]))
    kept_reprs = () if record.reprs is None else zip(("argsrepr", "kwargsrepr"), record.reprs, strict=True)
    reprs = {name: text for name, text in kept_reprs if name not in options}
    create: Any = app.amqp.create_task_message
    message = create(
        task_id, record.task, args, kwargs,
        callbacks=maybe_list(link), errbacks=maybe_list(link_error), reply_to=options.pop("reply_to", app.thread_oid),
        create_sent_event=app.conf.task_send_sent_event, shadow=shadow, ignore_result=ignore_result,
        **special, **reprs, **in_headers, **options,
    )  # fmt: skip
    for stamp in options.pop("stamped_headers", None) or ():
        options.pop(stamp, None)
    sender(producer, record.task, message, **options)


def _to(app: Celery, destination: Destination) -> dict[str, Any]:
    """Options of a message that goes to a known place. An exchange that is not "direct" is taken as it is."""
    queues: Any = app.amqp.queues
    is_known = not destination.exchange and destination.routing_key in queues
    return {
        "queue": None, "exchange": destination.exchange, "routing_key": destination.routing_key,
        "exchange_type": "topic", "priority": destination.priority,
        "declare": [queues[destination.routing_key]] if is_known else None,
    }  # fmt: skip


def _delayed_by_broker(app: Celery, producer: Any, eta: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Where the app has quorum queues, RabbitMQ itself holds a message back until its time, as with ``send_task``."""
    if not detect_quorum_queues(app, producer.connection.transport.driver_type)[0]:
        return options
    queue = options.get("queue")
    exchange_type = queue.exchange.type if queue else options["exchange_type"]
    routing_key = queue.routing_key if queue else options["routing_key"]
    seconds = _seconds_until(app, eta)
    if exchange_type == "direct" or seconds < 1:  # a shorter delay has no routing key, and its worker waits
        return options
    kept = {name: value for name, value in options.items() if name != "queue"}
    exchange = Exchange(DELAYED, type="topic")
    return {**kept, "exchange": exchange, "routing_key": calculate_routing_key(int(seconds), routing_key)}


def _seconds_until(app: Celery, at: Any) -> float:
    if isinstance(at, int | float):
        return at
    time: Any = maybe_iso8601(at)
    return float((maybe_make_aware(time, tz=app.timezone) - app.now()).total_seconds())
