"""Messages of tasks with a lease, and of items, are of task protocol 2, whatever ``task_protocol`` says.

Protocol 1 keeps the id in the body, where recovery does not read it, and has no place for how often a task has replaced
itself: the last replacement of an item would be dropped as an old copy, and the item would stay open. Workers with this
package receive both protocols, and no others run these tasks. All other messages of the app are of the protocol that it
has chosen.
"""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.app.amqp import AMQP

from celery_perpetual.leases.execution import current
from celery_perpetual.leases.interest import Interest, interest_in, is_ours, wired

if TYPE_CHECKING:
    from celery import Celery


def use_protocol_2(app: Celery) -> None:
    """Wrap what builds messages of protocol 1; once per process, and in an app that has begun to use it."""
    if not hasattr(AMQP.as_task_v1, "perpetual"):
        AMQP.as_task_v1 = _choosing(AMQP.as_task_v1)  # type: ignore[method-assign]
    amqp: Any = vars(app).get("amqp")
    if amqp is not None and hasattr(amqp, "task_protocols"):  # it has bound the method by now
        before, amqp.task_protocols[1] = amqp.task_protocols.get(1), amqp.as_task_v1
        if vars(amqp).get("create_task_message") == before:
            amqp.create_task_message = amqp.as_task_v1


def _choosing(as_task_v1: Any) -> Any:
    @wraps(as_task_v1)
    def choosing(self: Any, task_id: Any, name: str, *args: Any, **options: Any) -> Any:
        build = self.as_task_v2 if _needs_2(self.app, task_id, name, options.get("headers")) else None
        return build(task_id, name, *args, **options) if build else as_task_v1(self, task_id, name, *args, **options)

    choosing.perpetual = True  # type: ignore[attr-defined]
    return choosing


def _needs_2(app: Celery, task_id: Any, name: str, headers: Any) -> bool:
    if wired(app) is None:
        return False
    execution, task = current(), app.tasks.get(name)
    if execution is not None and execution.nonce and execution.hands_on:  # a replacement may begin with any task
        return True
    return is_ours(task, task_id, headers) or Interest.LEASE in interest_in(app, task, task_id, headers)
