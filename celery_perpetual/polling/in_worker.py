"""Polls in workers: the claim travels in a Celery task of our own.

The task goes to the perpetual task's own queue, is acknowledged at once and stores no result: if it gets lost, the
claim expires and the unit is polled again. Where the broker is the store, its message does not wait behind items. In a
pool child Celery's time limits end a ``next_batch`` that hangs.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from billiard import current_process

from celery_perpetual.polling.claims import Claim

if TYPE_CHECKING:
    from celery import Celery


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
    own = contract.task._get_exec_options()  # noqa: SLF001  # where its own messages go
    app.send_task(
        TASK,
        kwargs=kwargs,
        route_name=contract.name,
        ignore_result=True,
        expires=contract.poll_timeout * 2 + 60,
        soft_time_limit=ceil(contract.poll_timeout),
        time_limit=ceil(contract.poll_timeout) + GRACE_SECONDS,
        **options,
        **{name: own[name] for name in ROUTING if own.get(name) is not None},
    )


def in_pool_child() -> bool:
    """Whether Celery's time limits hold here."""
    process: Any = current_process()
    return bool(process.daemon)
