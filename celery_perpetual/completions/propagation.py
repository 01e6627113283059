"""Ends by propagation: Celery stores a failure for the rest of a chain and for a chord's body, and sends no signal."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, Any

from celery.backends.base import Backend

from celery_perpetual.completions.announce import End
from celery_perpetual.completions.completion import FAILURE
from celery_perpetual.completions.ours import announces, is_ours

if TYPE_CHECKING:
    from celery import Celery


def fail_successors(app: Celery, chain: Any, exception: Any) -> None:
    """Announce the failure of what was still to come of a failed task's chain."""
    for element in reversed(chain or ()):
        _fail(app, element, exception)
        body = (element.get("kwargs") or {}).get("body") if element.get("subtask_type") == "chord" else None
        if body:
            _fail(app, body, exception)


def _fail(app: Celery, signature: Any, exception: Any) -> None:
    task_id, name = (signature.get("options") or {}).get("task_id"), signature.get("task")
    task = app.tasks.get(name)
    perpetual: Any = getattr(app, "perpetual", None)
    if perpetual is not None and task_id is not None and is_ours(app, task, task_id):
        end = End(task_id=str(task_id), task=name, status=FAILURE, exception=exception, announce=announces(task))
        perpetual.announcer.finish(end)


def watch_chords() -> None:
    """Wrap the one method through which every result backend fails a chord's body; once per process."""
    original = Backend.chord_error_from_stack
    if getattr(original, "perpetual", False):
        return

    @wraps(original)
    def chord_error_from_stack(self: Any, callback: Any, exc: Any = None) -> Any:
        reply = original(self, callback, exc)
        if callback.get("subtask_type") is None:
            _fail(self.app, callback, exc)
            fail_successors(self.app, (callback.get("options") or {}).get("chain"), exc)
        return reply

    chord_error_from_stack.perpetual = True  # type: ignore[attr-defined]
    Backend.chord_error_from_stack = chord_error_from_stack  # type: ignore[method-assign]
