"""Tasks with a ``Strategy`` of their own, as in celery-batches: Celery's tracer never runs them.

They collect messages and run one body for many, so no execution asks for a lease. What is seen of such a task is that
its message is acknowledged, and what its body says to the result backend (``mark_as_done``, ``mark_as_failure``). The
first of these is its end. A strategy that hands its messages to Celery's own one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from celery.backends.base import Backend

from celery_perpetual.completions.completion import FAILURE, SUCCESS
from celery_perpetual.leases.interest import Interest, has_own_strategy, interest_in
from celery_perpetual.worker.signals import announce_end


def watch_marks() -> None:
    """Wrap what stores successes and failures; once per process."""
    if getattr(Backend.mark_as_done, "perpetual_marks", False):
        return
    Backend.mark_as_done = _announcing(Backend.mark_as_done, SUCCESS, "result")  # type: ignore[method-assign]
    Backend.mark_as_failure = _announcing(Backend.mark_as_failure, FAILURE, "exception")  # type: ignore[method-assign]


def _announcing(original: Callable[..., Any], status: str, fact: str) -> Any:
    @wraps(original)
    def marking(self: Any, task_id: Any, outcome: Any, *args: Any, **kwargs: Any) -> Any:
        reply = original(self, task_id, outcome, *args, **kwargs)
        request = kwargs.get("request")
        if request is None:  # as from Celery's tracer
            return reply
        # The requests of celery-batches say "name" where Celery's request says "task".
        task = self.app.tasks.get(getattr(request, "name", None))
        if task is not None:
            announce_outside(self.app, task, task_id, getattr(request, "request_dict", None), status, **{fact: outcome})
        return reply

    marking.perpetual_marks = True  # type: ignore[attr-defined]
    return marking


def announce_outside(app: Any, task: Any, task_id: Any, headers: Any, status: str, **facts: Any) -> None:
    """Announce the end of a task that runs outside of Celery's tracer; nothing for any other."""
    if not has_own_strategy(task):
        return
    interest = interest_in(app, task, task_id, headers)
    if Interest.END in interest:
        announce_end(app, task, task_id, status, interest, **facts)
