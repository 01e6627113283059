"""Messages that kill every worker that receives them, where the broker is not Redis.

The task of such a message never begins, so it has no lease, and the broker delivers the message without end. On Redis
the leader finds it among the received messages that no living worker has. Elsewhere a worker that receives a message
that was delivered before writes its name on it until it has received the message whole. A name that is still there is
that of a worker that died over it: that counts as a recovery, and after ``max_recoveries`` the task is parked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery_perpetual import events
from celery_perpetual.broker.message_copy import from_message
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.recovery.losses import declare_lost
from celery_perpetual.store.commands.leases import lost_since, mark_suspect, unmark_suspect
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


#: How long a name stays on a message that is not received any more.
KEPT_MS = 24 * 3600 * 1000


class PoisonMarks:
    """Names on messages, for a worker's main process."""

    def __init__(self, app: Celery, grants: Grants) -> None:
        self._app = app
        self._grants = grants

    def mark(self, message: Any, task_id: str, name: str) -> str:
        """Write this worker's name on a message, before other code reads it.

        Returns:
            "" if it may be received, or the verdict on its task: ``parked`` or ``fail``.
        """
        try:
            return self._mark(message, task_id, name)
        except StoreUnavailable as error:
            self._grants.note_away()
            emit(events.POISON_MARK_FAILED, task_id=task_id, error=error)
            return ""

    def _mark(self, message: Any, task_id: str, name: str) -> str:
        assert self._grants.instance is not None
        store, mine = self._grants.store, self._grants.instance.name
        before = mark_suspect(store, task_id, mine, ttl_ms=KEPT_MS)
        if before is None or before == mine:
            return ""
        ledger_has_it = item_address(task_id) is not None and not message.headers.get("retries")
        copy = "" if ledger_has_it else from_message(message).to_json()
        verdict = declare_lost(self._app, self._grants, task_id, name, counts=True, copy=copy)
        emit(events.POISON_SUSPECTED, worker=before, task_id=task_id, verdict=verdict)
        if verdict in ("parked", "fail"):
            self.unmark(task_id)
            return verdict
        if verdict == "resend":
            self._remove_from_list(task_id)
        return ""

    def _remove_from_list(self, task_id: str) -> None:
        """The task need not be resent: its message is here."""
        store = self._grants.store
        since = lost_since(store, task_id)
        if since is not None:
            script("resent")(store, id=task_id, since=repr(since), flag="run", tag="", unacked="", unacked_index="")

    def unmark(self, task_id: str) -> None:
        """Take the name off: the message has been received whole."""
        store = self._grants.store
        try:
            unmark_suspect(store, task_id)
        except StoreUnavailable as error:
            self._grants.note_away()
            emit(events.POISON_UNMARK_FAILED, task_id=task_id, error=error)
