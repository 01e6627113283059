"""Messages from records: what ``apply_async`` would have sent, but for the id, the header and the result backend.

Celery's own router and ``as_task_v2`` build the message and its own sender publishes it, so routing, priorities,
serializers, time limits, shadow names, stamps, signals and sent events are Celery's. The result backend is left out:
``apply_async`` makes the Redis backend subscribe to every id that it sends, which nobody here waits for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from celery.app.task import Task as CeleryTask
from celery.utils.functional import maybe_list
from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_perpetual.ledger.record import Record
from celery_perpetual.tasks import HEADER, HEADER_VALUE, PerpetualTask

if TYPE_CHECKING:
    from celery import Celery


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


def send(app: Celery, producer: Any, record: Record, task_id: str) -> None:
    """Publish the message of one record through ``producer``."""
    task = app.tasks.get(record.task)
    options = dict(record.options)
    options["headers"] = {**(options.get("headers") or {}), HEADER: HEADER_VALUE}
    if has_own_sender(task):
        _send_by_task(app, producer, task, record, task_id, options)
    else:
        _send_by_record(app, producer, task, record, task_id, options)


def _send_by_task(app: Celery, producer: Any, task: Any, record: Record, task_id: str, options: dict[str, Any]) -> None:
    task.apply_async(record.args, record.kwargs, task_id=task_id, producer=producer, **options)
    consumer = getattr(app.backend, "result_consumer", None)
    if consumer is not None:  # undo the subscription that came with the call
        consumer.cancel_for(task_id)


def _send_by_record(
    app: Celery, producer: Any, task: Any, record: Record, task_id: str, options: dict[str, Any]
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
    options.pop("add_to_parent", None)
    options = app.amqp.router.route(options, record.task, args, kwargs, task)
    if special["expires"] is not None:
        options["expiration"] = _seconds_left(app, special["expires"])
    reprs = {} if record.reprs is None else dict(zip(("argsrepr", "kwargsrepr"), record.reprs, strict=True))
    create: Any = app.amqp.create_task_message
    message = create(
        task_id, record.task, args, kwargs,
        callbacks=maybe_list(link), errbacks=maybe_list(link_error), reply_to=options.pop("reply_to", app.thread_oid),
        create_sent_event=app.conf.task_send_sent_event, shadow=shadow, ignore_result=ignore_result,
        **special, **reprs, **options,
    )  # fmt: skip
    for stamp in options.pop("stamped_headers", None) or ():
        options.pop(stamp, None)
    app.amqp.send_task_message(producer, record.task, message, **options)


def _seconds_left(app: Celery, expires: Any) -> float:
    """The broker's own time-to-live, as Celery sets it; what has run out already gets none."""
    if isinstance(expires, int | float):
        return max(0.0, expires)
    at: Any = maybe_iso8601(expires)
    return max(0.0, (maybe_make_aware(at, tz=app.timezone) - app.now()).total_seconds())
