"""Notes the successor of an execution, its retry or its replacement, before that message is in the broker.

A process may die between the publish and the release of its lease. Without the note its task would be begun anew while
the successor comes too: two executions of one id at once. With it, a lost execution is succeeded by the very message
that it has sent or was about to send; if that comes twice, the guard runs it once.

Retries and replacements of an item may go to another queue (``self.retry(queue=…)``). Recovery looks for a lost message
where it was sent, so that is noted too.

A body may also send a message under its own id by itself, without ``retry``. Whether that goes on in its place is known
only at its end; until then a worker that receives it drops it, and at the end it is sent once more.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from inspect import signature
from typing import Any

from celery import Signature, chord, chunks, current_task, group, signals
from celery.canvas import _chain
from celery.exceptions import Ignore, Reject, Retry
from kombu.exceptions import OperationalError

from celery_perpetual import events
from celery_perpetual.broker.destinations import Destination
from celery_perpetual.broker.message_copy import from_publish
from celery_perpetual.leases.execution import Execution, current, execution_of
from celery_perpetual.ledger.ids import item_address, item_index
from celery_perpetual.publishing.stampable import OWN_RECEIVER
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.task import HEADER, HEADER_VALUE
from celery_perpetual.telemetry import emit

#: Why an execution has a successor, and what Celery raises when that is sent.
_RAISED: dict[str, type[Exception]] = {"wait": Retry, "delegated": Ignore}


def connect() -> None:
    """Note successors in this process."""
    signals.before_task_publish.connect(_on_publish, weak=False, dispatch_uid=OWN_RECEIVER)


@contextmanager
def handing_on(task: Any, cause: str, *, is_one_message: bool = True) -> Iterator[None]:
    """A retry or a replacement is sent inside: from then on another message goes on under the id of this execution.

    That holds also where the body catches the exception.

    Args:
        task: the running one.
        cause: ``wait`` (a retry) or ``delegated`` (a replacement).
        is_one_message: False where the replacement begins with several, such as a chord: then a lost execution runs
            once more, as the one that follows.
    """
    execution = None if task.request.is_eager else execution_of(task.request.id)
    if execution is None:
        yield
        return
    execution.has_copy = execution.keeps_successor = execution.is_unsent = False
    if is_one_message:
        execution.hands_on = cause
    elif execution.leased:
        _note(task.app, execution, cause)
    try:
        yield
    except _RAISED[cause]:
        execution.successor = cause
        raise
    finally:
        execution.hands_on = ""
    execution.successor = cause


def retry_or_leave(retry: Any, task: Any, execution: Execution | None, /, *args: Any, **kwargs: Any) -> Any:
    """Send a retry, or leave that to others where the broker is out of reach and the retry is on record.

    Celery rejects the message of a task that cannot send its retry, and the task would be over.

    Args:
        retry: Celery's method.
        task: the running one.
        execution: its own; None where it has none.
        args: of the method.
        kwargs: of the method.

    Raises:
        Retry: as the method does.
        Exception: what the method raises besides.
    """
    try:
        return retry(task, *args, **kwargs)
    except Reject as error:
        if not _leave(task.app, execution, getattr(error, "reason", None)):
            raise
    options = signature(retry).bind(task, *args, **kwargs).arguments
    when = options.get("eta") or options.get("countdown")
    again = Retry(exc=options.get("exc"), when=task.default_retry_delay if when is None else when)
    if options.get("throw", True):
        raise again
    return again


def replace_or_leave(replace: Any, task: Any, execution: Execution | None, sig: Any) -> Any:
    """Send a replacement, or leave that to others, as with a retry: a task that cannot send it would fail.

    Raises:
        Ignore: as Celery's method does.
        Exception: what it raises besides.
    """
    try:
        return replace(task, sig)
    except OperationalError as error:
        if not _leave(task.app, execution, error):
            raise
    raise Ignore("Replaced by new task")


def _leave(app: Any, execution: Execution | None, error: Any) -> bool:
    """Whether the successor of an execution is on record, and could not be sent as the broker is out of reach."""
    is_refused = isinstance(getattr(error, "__cause__", None), app.connection_for_write().channel_errors)
    if execution is None or not execution.has_copy or not isinstance(error, OperationalError) or is_refused:
        return False
    execution.is_unsent = True
    emit(events.SUCCESSOR_LEFT, task_id=execution.task_id, error=error)
    return True


def is_one_message(signature: Any) -> bool:
    """Whether only one message is published when a signature is sent."""
    if isinstance(signature, _chain):
        return bool(signature.tasks) and is_one_message(Signature.from_dict(signature.tasks[0]))
    return not isinstance(signature, group | chord | chunks)


def ends_in_one_task(app: Any, signature: Any) -> Any:
    """As Celery makes it of a replacement that is, or ends with, a group: a task collects the results of the group.

    Celery leaves chunks, and a group that is the body of a chord, as they are, and no task gets the id then.
    """
    if isinstance(signature, chunks):
        signature = signature.group()
    if isinstance(signature, group):
        return signature | app.tasks["celery.accumulate"].s(index=0)
    inside: Any = signature
    if isinstance(signature, _chain) and signature.tasks:
        inside.tasks = [*inside.tasks[:-1], ends_in_one_task(app, inside.tasks[-1])]
    elif isinstance(signature, chord) and signature.body:
        inside.body = ends_in_one_task(app, inside.body)
    return signature


def inherit(request: Any, last: Any) -> None:
    """The task that ends last takes over the id of what it replaces, the guard, and its place in the order."""
    last.options.pop("task_id", None)
    last.options["headers"] = {**(last.options.get("headers") or {}), HEADER: HEADER_VALUE}
    # Celery itself gives it to a task, a chain's tasks and a chord's body, and not to a chain that is a chord's body.
    last.options["replaced_task_nesting"] = int(request.get("replaced_task_nesting") or 0) + 1


def last_task(signature: Any) -> Any:
    """The signature of the task that ends last, and gets the id of what the signature replaces."""
    if isinstance(signature, _chain) and signature.tasks:
        return last_task(signature.tasks[-1])
    return last_task(signature.body) if isinstance(signature, chord) else signature


def _on_publish(
    headers: Any = None, body: Any = None, properties: Any = None, exchange: Any = None, routing_key: Any = None,
    **_: Any,
) -> None:  # fmt: skip
    execution = current()
    if execution is None or not headers:
        return
    is_own, cause = headers.get("id") == execution.task_id, execution.hands_on
    # A replacement may begin with a task of another id; receivers of this signal may send tasks that are none of it.
    succeeds = headers.get("replaced_task_nesting") if cause == "delegated" else cause and is_own
    if not is_own and not succeeds:
        return
    if not succeeds:
        cause = execution.sent_again = _sent_by_hand(execution, headers)
    name, properties, app = getattr(exchange, "name", exchange) or "", properties or {}, current_task.app
    destination = Destination(name, routing_key or "", properties.get("priority")).to_json() if is_own else ""
    copy = ""
    if succeeds:
        execution.hands_on = ""
    elif cause == "wait":
        cause = ""  # its order is newer: a worker that receives it runs it
    if cause and execution.leased:
        copy = _copy(app, body, headers, properties, name, routing_key or "")
    if not succeeds:  # an execution that is lost begins anew, from its own message
        execution.sent_copy, copy = copy, ""
    is_noted = _note(app, execution, cause, copy, destination)
    if succeeds:
        execution.has_copy = is_noted and bool(copy)
        execution.keeps_successor = execution.has_copy and bool(destination and item_address(execution.task_id))


def _sent_by_hand(execution: Execution, headers: Any) -> str:
    """How a message goes on that the body sends under its own id: as a retry (``wait``) or with its order (``back``).

    Such a message would be older than a task that was retried or has replaced itself, and be dropped. So it gets the
    order of its execution, and the header of a task that needs a lease.
    """
    request: Any = (execution.task or current_task).request
    own = (int(request.replaced_task_nesting or 0), int(request.retries or 0))
    sent = (int(headers.get("replaced_task_nesting") or 0), int(headers.get("retries") or 0))
    if execution.nonce:
        headers.setdefault(HEADER, HEADER_VALUE)
        if sent < own:
            headers["replaced_task_nesting"], headers["retries"] = own
    return "wait" if sent > own else "back"


def _copy(app: Any, body: Any, headers: Any, properties: Any, exchange: str, routing_key: str) -> str:
    """The message as JSON; "" where it cannot be serialized as its task's messages usually are."""
    serializer = getattr(app.tasks.get(headers.get("task")), "serializer", None) or app.conf.task_serializer
    try:
        return from_publish(body, headers, properties, exchange, routing_key, serializer).to_json()
    except Exception as error:  # of any kind: it may be sent by another serializer
        emit(events.SUCCESSOR_NOT_COPIED, task_id=headers.get("id"), error=error)
        return ""


def _note(app: Any, execution: Execution, cause: str, copy: str = "", destination: str = "") -> bool:
    """Whether the successor is on record."""
    where, perpetual = item_address(execution.task_id), getattr(app, "perpetual", None)
    if perpetual is None or not (execution.leased or where):
        return False
    keys = perpetual.store.keys
    try:
        noted = script("note_successor")(
            perpetual.grants.store, batch=keys.poll(where.poll_id if where else ""), id=execution.task_id,
            nonce=execution.nonce, cause=cause, copy=copy, index=item_index(execution.task_id) if where else "",
            destination=destination if where else "",
        )  # fmt: skip
    except Exception as error:  # of any kind: the task goes on all the same
        emit(events.SUCCESSOR_NOT_NOTED, task_id=execution.task_id, error=error)
        return False
    return bool(noted)
