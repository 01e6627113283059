"""``retry_classified``: a task whose body raises is retried by Celery, when the class of the error says.

The tries of a task are Celery's: one count for all errors, in ``request.retries``. A rule, or a class whose policy has
a budget, says how many there are; for any other error it is the task's own ``max_retries``.
"""

from __future__ import annotations

from typing import Any

from celery.exceptions import Ignore, Reject, Retry

from celery_perpetual.tasks.options import PerpetualOptions

#: For Celery None would be the task's own ``max_retries``.
NO_BOUND = 2**31


def retry_by_class(task: Any, error: Exception) -> None:
    """Retry a task that has raised, if it asks for that and its error is worth it; else return.

    Raises:
        Retry: Celery has sent the next try.
        Exception: ``error`` itself, where the tries are spent.
    """
    options = getattr(task, "perpetual_options", None)
    if not isinstance(options, PerpetualOptions) or not options.retry_classified:
        return
    if isinstance(error, Retry | Ignore | Reject):
        return
    tries = task.request.retries or 0
    failure = task.app.perpetual.runner.policies.after_tries(error, tries, options.error_rules, task.name)
    if not failure.gives_up:
        most = NO_BOUND if failure.has_budget else None
        raise task.retry(exc=error, countdown=failure.delay_ms / 1000, max_retries=most)
