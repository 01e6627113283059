"""Tells the ledger how items end, from Celery's signals.

Signals come from two places: in the process that runs the task ``task_postrun`` says how it ended; in the worker's
main process ``task_failure``, ``task_revoked``, ``task_rejected`` and ``task_unknown`` speak for tasks that never ran
or whose child died. Some ends are told twice, so the ledger counts only the first. A retry and a replacement are no
ends: the task goes on under its id.

A handler never raises into the task and never waits longer than ``perpetual_store_timeout``. What the store could not
be told is kept, up to a bound, and told with the next end or by a thread that tries until the store is back.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from celery import signals, states
from celery.exceptions import Ignore, Reject
from celery.utils.log import get_logger

from celery_perpetual.errors import PerpetualError
from celery_perpetual.faults import reach
from celery_perpetual.ledger import Ledger, place

if TYPE_CHECKING:
    from collections.abc import Callable

    from celery import Celery

logger = get_logger(__name__)

#: Ends that wait for the store, per process.
MOST_WAITING = 10_000
RETRY_SECONDS = 1.0

#: What ``Task.replace`` raises; only its text tells it from an ``Ignore`` of the task's own.
REPLACED = "Replaced by new task"

_UID = "celery_perpetual.finish"

#: Ids whose body this process is tracing, whose end ``task_postrun`` will tell.
_traced: set[str] = set()


class Finisher:
    """Settles ends in the ledger, now or as soon as the store answers."""

    def __init__(self, ledger: Callable[[], Ledger]) -> None:
        self._ledger = ledger
        self._waiting: deque[tuple[str, str]] = deque(maxlen=MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def finish(self, task_id: Any, status: str) -> None:
        """Settle one end; ids that are not ours cost a comparison."""
        if place(task_id) is None:
            return
        reach("task.finishing")
        self._waiting.append((task_id, status))
        if not self._settle():
            self._settle_later()

    def _settle(self) -> bool:
        """Tell the store everything that waits, oldest first; False if it did not answer."""
        while self._waiting:
            try:
                task_id, status = self._waiting.popleft()
            except IndexError:  # another thread took the last one
                return True
            where = place(task_id)
            assert where is not None
            try:
                self._ledger().finish(task_id, where, status)
            except PerpetualError as error:
                self._waiting.appendleft((task_id, status))
                logger.warning("perpetual: the end of %s is told later: %s", task_id, error)
                return False
            except Exception:
                logger.exception("perpetual: the end of task %s could not be settled", task_id)
        return True

    def _settle_later(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # a fork leaves no threads behind
                self._thread = threading.Thread(target=self._keep_trying, name="perpetual-finish", daemon=True)
                self._thread.start()

    def _keep_trying(self) -> None:
        pause = threading.Event()
        while self._waiting and not self._settle():
            pause.wait(RETRY_SECONDS)


def connect() -> None:
    """Connect the handlers, once per process. They serve every app that is wired."""
    signals.task_prerun.connect(_on_prerun, weak=False, dispatch_uid=_UID)
    signals.task_postrun.connect(_on_postrun, weak=False, dispatch_uid=_UID)
    signals.task_failure.connect(_on_failure, weak=False, dispatch_uid=_UID)
    signals.task_revoked.connect(_on_revoked, weak=False, dispatch_uid=_UID)
    signals.task_rejected.connect(_on_rejected, weak=False, dispatch_uid=_UID)
    signals.task_unknown.connect(_on_unknown, weak=False, dispatch_uid=_UID)


def _finish(app: Celery | None, task_id: Any, status: str) -> None:
    perpetual = getattr(app, "perpetual", None)
    if perpetual is not None:
        perpetual.finisher.finish(task_id, status)


def _on_prerun(task_id: str = "", **_: Any) -> None:
    if place(task_id) is not None:
        _traced.add(task_id)


def _on_postrun(sender: Any = None, task_id: str = "", state: str | None = None, retval: Any = None, **_: Any) -> None:
    _traced.discard(task_id)
    status = _status(sender, state, retval)
    if status is not None:
        _finish(sender.app, task_id, status)


def _status(task: Any, state: str | None, retval: Any) -> str | None:
    """How the task ended, or None where it goes on or another signal follows."""
    if state == states.SUCCESS:
        return "success"
    if state == states.FAILURE:
        return "failure"
    if state == states.IGNORED:
        replaced = isinstance(retval, Ignore) and retval.args[:1] == (REPLACED,)
        return None if replaced else "ignored"
    if state == states.REJECTED:
        returns = isinstance(retval, Reject) and getattr(retval, "requeue", False) and task.acks_late
        return None if returns else "rejected"
    return None


def _on_failure(sender: Any = None, task_id: str = "", **_: Any) -> None:
    if task_id not in _traced:  # otherwise task_postrun follows in this very process
        _finish(getattr(sender, "app", None), task_id, "failure")


def _on_revoked(sender: Any = None, request: Any = None, expired: bool = False, **_: Any) -> None:
    _finish(getattr(sender, "app", None), getattr(request, "id", None), "expired" if expired else "revoked")


def _on_rejected(sender: Any = None, message: Any = None, **_: Any) -> None:
    headers = getattr(message, "headers", None) or {}
    _finish(getattr(sender, "app", None), headers.get("id"), "rejected")


def _on_unknown(sender: Any = None, **unknown: Any) -> None:
    _finish(getattr(sender, "app", None), unknown.get("id"), "failure")
