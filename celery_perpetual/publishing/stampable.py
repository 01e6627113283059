"""Which messages may be stamped out, and which have to be built one by one.

A message may be stamped out from another one of its kind only if Celery would have built it the same way: if nothing
that could look at the arguments, and nothing that changes from message to message, takes part. Everything here is
about what cannot be seen in a specimen; what can be seen there is checked there. When in doubt, Celery builds it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from types import FunctionType
from typing import TYPE_CHECKING, Any

import kombu
import kombu.messaging
from celery import signals
from celery.app import amqp as celery_amqp
from celery.app.amqp import AMQP
from celery.app.routes import MapRoute, Router
from celery.app.task import Task as CeleryTask
from kombu.utils.json import loads as json_loads

from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.publishing.message import has_own_sender
from celery_perpetual.publishing.sender import is_celerys_own

if TYPE_CHECKING:
    from celery import Celery

#: Options that are the same text in every message of a kind. Links, stamps, times and unknown options are not.
STAMPED_OPTIONS = frozenset(
    {
        "add_to_parent", "delivery_mode", "exchange", "exchange_type", "headers", "ignore_result", "priority",
        "queue", "retry", "retry_policy", "routing_key", "serializer", "shadow", "soft_time_limit", "time_limit",
    }
)  # fmt: skip


#: Task, serializer and JSON of the options: what all messages that are stamped from one specimen have in common.
Kind = tuple[str, str, str]

kind_of: Callable[[CheckedItem], Kind] = itemgetter(
    *map(CheckedItem._fields.index, ("task", "serializer", "options_json"))
)


def kinds_of(indexed: Sequence[tuple[int, CheckedItem]]) -> Counter[Kind]:
    """How many items there are of each kind."""
    return Counter([kind_of(item) for _, item in indexed])


def runs_of_kinds(
    indexed: Sequence[tuple[int, CheckedItem]],
) -> Iterator[tuple[Kind, Sequence[tuple[int, CheckedItem]]]]:
    """Items in their order, those together that follow one another and are of one kind."""
    if len(found := kinds_of(indexed)) == 1:
        yield from ((kind, indexed) for kind in found)
        return
    for kind, run in groupby(indexed, lambda each: kind_of(each[1])):
        yield kind, list(run)


#: The receiver of ``before_task_publish`` that belongs to this package, and changes nothing.
OWN_RECEIVER = "celery_perpetual.destination"


def has_foreign_receivers(signal: Any) -> bool:
    """Whether code outside of this package receives a signal."""
    return any(key[0] != OWN_RECEIVER for key, _ in signal.receivers)


def is_sent_in_pairs() -> bool:
    """Whether other code receives the signals before and after a publish, as tracing does.

    What it opens in the one it closes in the other, so a message is published before the next one is built.
    """
    return has_foreign_receivers(signals.before_task_publish) and has_foreign_receivers(signals.after_task_publish)


def objection(app: Celery, kind: Kind) -> str | None:
    """Why messages of this kind have to be built one by one, or None."""
    return next(_of_app(app), None) or next(_of_kind(app, kind), None)


def _of_app(app: Celery) -> Iterator[str]:
    amqp: Any = app.amqp
    if has_foreign_receivers(signals.before_task_publish):
        yield "before_task_publish has receivers, which may change a message"
    if signals.task_sent.receivers:
        yield "task_sent has receivers"
    if app.conf.task_send_sent_event:
        yield "task_send_sent_event sends an event with every message"
    if not is_celerys_own(amqp) or not is_untouched(AMQP.as_task_v2, celery_amqp):
        yield "app.amqp is not Celery's own"
    if amqp.Producer is not kombu.Producer or not is_untouched(kombu.Producer.publish, kombu.messaging):
        yield "the producer is not Kombu's own"
    router: Any = amqp.router
    if type(amqp.router) is not Router or any(type(route) is not MapRoute for route in router.routes):
        yield "a router may look at the arguments"


def _of_kind(app: Celery, kind: Kind) -> Iterator[str]:
    name, _, options = kind
    task: Any = app.tasks.get(name)
    if has_own_sender(task):
        yield f"{name} has an apply_async of its own"
    for method in ("shadow_name", "_get_exec_options"):
        if task is not None and (
            method in vars(task) or getattr(type(task), method, None) is not getattr(CeleryTask, method)
        ):
            yield f"{name} has a {method} of its own"
    if task is not None and getattr(task, "expires", None) is not None:
        yield f"{name} expires"
    for option in json_loads(options) if options else ():
        if option not in STAMPED_OPTIONS:
            yield f"option {option} may differ from message to message"


def is_untouched(function: Any, module: Any) -> bool:
    """Whether a function is the one its module came with; tracing libraries put theirs around it."""
    return type(function) is FunctionType and function.__globals__ is vars(module)
