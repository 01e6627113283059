"""Ends by propagation: Celery stores a failure for the rest of a chain and for a chord's body, and sends no signal.

Every such failure goes through two methods of the result backend's base class, in whatever process the first task
ended, so these are wrapped. Members of a chord that never starts, and before 5.7 what comes behind a failed chord, are
passed over by Celery; here they end too.

A task that ignores itself, is rejected, revoked or expires stops its chain and its chord as well, and Celery says
nothing of what waits behind it. That ends here as the task did: an item that has replaced itself by such a chain would
stay open for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import wraps
from typing import TYPE_CHECKING, Any

from celery import states
from celery.backends.base import Backend
from celery.exceptions import TimeLimitExceeded

from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import EXPIRED, FAILURE, IGNORED, REVOKED
from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.completions.owing import owed_if_it_fails
from celery_perpetual.leases.execution import execution_of
from celery_perpetual.leases.interest import Interest, announces, interest_in, wired

if TYPE_CHECKING:
    from celery import Celery


#: Ends after which Celery itself fails the chord that the task belongs to.
CHORD_FAILS = (REVOKED, EXPIRED)


def watch_propagation() -> None:
    """Wrap what fails the rest of a chain and a chord's body; once per process."""
    if getattr(Backend.mark_as_failure, "perpetual", False):
        return
    mark_as_failure, chord_error_from_stack = Backend.mark_as_failure, Backend.chord_error_from_stack

    @wraps(mark_as_failure)
    def marking(self: Any, task_id: Any, exc: Any, *args: Any, **kwargs: Any) -> Any:
        request = kwargs.get("request")
        try:
            reply = mark_as_failure(self, task_id, exc, *args, **kwargs)
        except Exception as error:
            if celery_results.passes(self, error):  # the task has failed all the same, and its result is stored later
                # With it come the results of the rest: Celery counts in a chord only what has not failed by then.
                owed = owed_if_it_fails.get()
                _end_chain(self.app, task_id, request, exc, stores=owed is None or not owed.keeps_rest)
            raise
        _end_chain(self.app, task_id, request, exc)
        return reply

    @wraps(chord_error_from_stack)
    def failing(self: Any, callback: Any, exc: Any = None) -> Any:
        reply = chord_error_from_stack(self, callback, exc)
        if not isinstance(callback, Mapping):
            return reply
        _end_body(self.app, callback, FAILURE, exc)
        return reply

    marking.perpetual = True  # type: ignore[attr-defined]
    Backend.mark_as_failure = marking  # type: ignore[method-assign]
    Backend.chord_error_from_stack = failing  # type: ignore[method-assign]


def _end_chain(app: Any, task_id: Any, request: Any, exc: Any, *, stores: bool = True) -> None:
    """End what waits in the chain behind a task that has failed."""
    chain, execution = getattr(request, "chain", None), execution_of(task_id)
    if execution is not None and execution.successor:
        return  # the rest waits for the task that goes on under its id
    if isinstance(chain, list | tuple) and not goes_back(app.tasks.get(getattr(request, "task", None)), exc):
        for element in reversed(chain):
            _end(app, element, FAILURE, exc, stores=stores)


def goes_back(task: Any, exception: Any) -> bool:
    """Whether Celery gives the message back to its queue after this failure: the task has not ended then."""
    if not isinstance(exception, TimeLimitExceeded) or not getattr(task, "acks_late", False):
        return False
    own = getattr(task, "acks_on_timeout", None)
    return not (task.acks_on_failure_or_timeout if own is None else own)


def end_rest(app: Celery, request: Any, status: str, exception: Any) -> None:
    """End what waits behind a task that has ended without a result: the rest of its chain, and the body of its chord.

    Args:
        app: of the task.
        request: what Celery says of the task: a mapping with its ``chain`` and ``chord``.
        status: how these end with it.
        exception: the reason; of an ignored task there is none.
    """
    if not isinstance(request, Mapping):
        return
    chain = request.get("chain")
    for element in reversed(chain) if isinstance(chain, list | tuple) else ():
        _end(app, element, status, exception)
    body = request.get("chord")
    if isinstance(body, Mapping) and status not in CHORD_FAILS:
        _end_body(app, body, status, exception)


def embedded(message: Any) -> Any:
    """Chain and chord of a message, if it can be read."""
    try:
        _, _, found = message.payload
    except Exception:  # of any kind: it may be why the message is refused
        return None
    return found


def _end_body(app: Celery, body: Any, status: str, exception: Any) -> None:
    """End the body of a chord that will never be sent, and what waits behind it."""
    _end(app, body, status, exception)
    for element in reversed((body.get("options") or {}).get("chain") or ()):
        _end(app, element, status, exception)


def _end(app: Celery, signature: Any, status: str, exception: Any, *, stores: bool = True) -> None:
    """Announce the end of every task in a signature that will never be sent, and store Celery's result of it."""
    perpetual = wired(app)
    if perpetual is None:
        return
    for each in _tasks(signature):
        task_id, name = (each.get("options") or {}).get("task_id"), each.get("task")
        task = app.tasks.get(name)
        if Interest.END in interest_in(app, task, task_id, (each.get("options") or {}).get("headers")):
            if stores and status != IGNORED:  # for an ignored task Celery stores nothing
                state = states.REVOKED if status in CHORD_FAILS else states.FAILURE
                celery_results.store_failure_if_pending(app, task, str(task_id), exception, state)
            end = TaskEnd(task_id=str(task_id), task=name, status=status, exception=exception, announce=announces(task))
            perpetual.announcer.announce(end)


def _tasks(signature: Any) -> Iterator[Any]:
    """The single tasks in a signature, as dicts."""
    if signature.get("subtask_type") is None:
        yield signature
        return
    inside = signature.get("kwargs") or {}
    header = inside.get("header") or ()
    for each in (*(inside.get("tasks") or ()), *([header] if isinstance(header, dict) else header)):
        yield from _tasks(each)
    if inside.get("body"):
        yield from _tasks(inside["body"])
