"""Polls in workers: the claim travels in a Celery task of our own.

The task is acknowledged at once and stores no result: if it gets lost, the claim expires and the unit is polled again.
If the broker refuses it, its queue is full, and the poll fails at once.
In a pool child Celery's time limits end a ``next_batch`` that hangs.

It goes to the perpetual task's own queue, unless that names another one for its polls. There it does not wait behind
items where the broker is the store, nor where the queue of a RabbitMQ knows priorities.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from billiard import current_process

from celery_perpetual.broker.depth import queue_of
from celery_perpetual.polling.claims import Claim
from celery_perpetual.store.address import is_redis

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.tasks.contract import TaskContract


#: Name of the task that evaluates a poll.
TASK = "celery_perpetual.poll"

ROUTING = ("queue", "exchange", "routing_key", "priority")

#: Between the soft limit, which our code turns into an outcome, and the hard one, which kills the child.
GRACE_SECONDS = 5


#: By this text the message of a poll is known in its queue.
MARK = f'"{TASK}"'


def send(app: Celery, claim: Claim, **options: Any) -> None:
    """Send a claim to the workers.

    Args:
        options: of the message besides.
    """
    contract = claim.contract
    kwargs = {"task_name": contract.name, "poll_id": claim.poll_id, "following": claim.following}
    if claim.unit.tenant is not None:
        kwargs["tenant"] = claim.unit.tenant_value
    app.send_task(
        TASK,
        kwargs=kwargs,
        route_name=contract.name,
        ignore_result=True,
        expires=contract.poll_timeout * 2 + 60,
        soft_time_limit=ceil(contract.poll_timeout),
        time_limit=ceil(contract.poll_timeout) + GRACE_SECONDS,
        **options,
        **_routing(app, contract),
    )


def _routing(app: Celery, contract: TaskContract) -> dict[str, Any]:
    """To the queue that the task names for its polls, or where its own messages go. May run a router of the user's."""
    if contract.options.poll_queue is not None:
        return {"queue": contract.options.poll_queue}
    own = contract.task._get_exec_options()  # noqa: SLF001  # where its own messages go
    routing = {name: own[name] for name in ROUTING if own.get(name) is not None}
    highest = _highest_priority(app, contract)
    return routing if highest is None else {**routing, "priority": highest}


def _highest_priority(app: Celery, contract: TaskContract) -> int | None:
    """By which a poll passes the items that wait; None where the queue knows no priorities, and on Redis."""
    conf: Any = app.conf
    if is_redis(conf.broker_write_url):
        return None
    queue: Any = app.amqp.queues.get(queue_of(app, contract.task))
    arguments = getattr(queue, "queue_arguments", None) or {}
    highest = getattr(queue, "max_priority", None) or arguments.get("x-max-priority")
    return highest if isinstance(highest, int) else None


def in_pool_child() -> bool:
    """Whether Celery's time limits hold here."""
    process: Any = current_process()
    return bool(process.daemon)
