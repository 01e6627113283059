"""Resends tasks that were lost: the first process that comes works off the list ``{prefix}:resend``.

An entry is there until its message is in the broker, so a process that dies in between changes nothing. The message is
the first of these that there is:

1. the very one that the dead worker had received, which the broker still has as unacked;
2. the copy that was kept with the lease;
3. a new one, built from the ledger.

Where the broker is the store's own Redis, message and list change in one step.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.time import maybe_iso8601, maybe_make_aware
from kombu.utils.json import dumps, loads

from celery_perpetual import events
from celery_perpetual.broker.commands import BrokerCommands, Command
from celery_perpetual.broker.destinations import Destination, by_index
from celery_perpetual.broker.destinations import from_json as from_json_destination
from celery_perpetual.broker.message_copy import Copy, from_json, publish_copy, request_of
from celery_perpetual.broker.native_delay import at_once
from celery_perpetual.broker.queue_sizes import ensure_queue
from celery_perpetual.broker.unacked import shares_redis, unacked_keys
from celery_perpetual.broker.unacked_hash import UnackedHash
from celery_perpetual.completions import celery_results
from celery_perpetual.completions.completion import LOST
from celery_perpetual.completions.end import TaskEnd
from celery_perpetual.errors import StoreUnavailable, TaskLost
from celery_perpetual.faults import reach
from celery_perpetual.leases.interest import announces
from celery_perpetual.ledger.ids import item_address, item_index
from celery_perpetual.ledger.record import Record, decode
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.publishing.message import send
from celery_perpetual.publishing.refused import is_refused
from celery_perpetual.publishing.sender import AfterPublish
from celery_perpetual.publishing.singly import Singly
from celery_perpetual.recovery.full_queues import FullQueues
from celery_perpetual.recovery.losses import announce
from celery_perpetual.store.commands.destinations import published_to, sent_later_to
from celery_perpetual.store.commands.leases import StateText, copy_of, lost_tasks, remove_lost, state_of
from celery_perpetual.store.commands.records import record_at
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.store.work_list import LONGEST_CALL
from celery_perpetual.telemetry import emit, some

if TYPE_CHECKING:
    from celery import Celery

#: Of a task that is on the list, and of which the store remembers nothing else.
UNKNOWN = StateText(nesting=0, retries=0, recoveries=0, flag="resend", tag="", task="")


class _LostTask(NamedTuple):
    """An entry of the list, and what its message can be made of: in this order tag, copy, record."""

    task_id: str
    since: float
    """Score of the entry that was read."""
    task: str
    """Its name, "" where it is not known."""
    flag: str
    """``resend`` or ``fail``."""
    nesting: int
    retries: int
    recoveries: int
    tag: str
    """Delivery tag under which the broker may still have it."""
    copy: Copy | None
    record: Record | None

    @property
    def is_delegated(self) -> bool:
        """Whether its message is the first one of what has replaced it, and of another id."""
        return self.copy is not None and self.copy.headers.get("id") not in (None, self.task_id)

    def headers(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Headers of its message when it is resent: it comes not for the first time, and has the order that follows."""
        headers = {**before, "redelivered": True}
        if before.get("id") == self.task_id:
            headers |= {"retries": self.retries, "replaced_task_nesting": self.nesting}
        return headers

    def resent(self, command: Command) -> Command:
        """A command that pushes its message, so that it is known for a resent one, as Kombu does it."""
        if command.name != "LPUSH":
            return command
        payload = loads(str(command.value))
        payload["headers"] = self.headers(payload["headers"])
        payload["properties"]["delivery_info"]["redelivered"] = True
        return command._replace(value=dumps(payload))


class Resender:
    """Works off the list for one app."""

    def __init__(self, app: Celery, store: Store, *, broker_is_redis: bool) -> None:
        self._app = app
        self._store = store
        self._redis_broker = broker_is_redis
        self._shares = shares_redis(app, store)
        self._broker = unacked_keys(app)
        self._busy: set[str] = set()
        """Tasks that a thread is at: a router or a receiver of a signal may be code of the user's, and hang."""
        self._full = FullQueues()
        self.recent: deque[str] = deque(maxlen=100)
        """Ids of the tasks that were sent last; who reads them takes them out."""

    def send_all(self, limit: int = 1000) -> int:
        """Send the tasks on the list, so that the oldest one comes first in its queue; returns how many were sent.

        A task that another thread is at is passed over: it may hang there.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        entries = self._full.without_waiting(lost_tasks(self._store, limit + self._full.waiting))
        if not entries:
            return 0
        sent: list[str] = []
        begun = time.monotonic()
        way = Capture(self._app) if self._redis_broker else Singly(self._app)
        try:
            # The message that is pushed to the front last comes first.
            for task_id, since in reversed(entries) if self._redis_broker else entries:
                if time.monotonic() - begun > LONGEST_CALL:
                    break  # another thread may have sent the rest of what was read, and the next call reads anew
                if task_id not in self._busy and not self._full.keeps_waiting(task_id):
                    sent += self._try(way, task_id, since)
        finally:
            way.close()
            if sent:
                emit(events.TASKS_RESENT, count=len(sent), tasks=some(sent))
        return len(sent)

    def _try(self, way: Capture | Singly, task_id: str, since: float) -> list[str]:
        """The task as a report names it, if it was sent; one that cannot be sent does not hold up the others."""
        self._busy.add(task_id)
        try:
            return self._send(way, task_id, since)
        except StoreUnavailable:
            raise
        except Exception as error:
            emit(events.RESEND_TASK_FAILED, task_id=task_id, error=error)
            return []
        finally:
            self._busy.discard(task_id)

    def _send(self, way: Capture | Singly, task_id: str, since: float) -> list[str]:
        lost = self._read(task_id, since)
        if lost.flag == "fail":
            self._fail(lost, "its worker is gone")
            return []
        sent = self._publish(way, lost) if isinstance(way, Singly) else self._push(way, lost)
        if sent is None:
            self._fail(lost, "nothing is left of its message")
        if not sent:
            return []
        self.recent.append(task_id)
        return [f"{task_id} ({lost.task or 'unknown task'}, recovery {lost.recoveries})"]

    def _read(self, task_id: str, since: float) -> _LostTask:
        state, text = state_of(self._store, task_id) or UNKNOWN, copy_of(self._store, task_id)
        copy = from_json(text) if text else None
        record = None if copy else self._record(task_id)
        return _LostTask(
            task_id,
            since,
            state.task,
            state.flag,
            state.nesting,
            state.retries,
            state.recoveries,
            state.tag,
            copy,
            record,
        )

    def _push(self, capture: Capture, lost: _LostTask) -> int | None:
        """To the front of its list on a Redis broker; None where nothing is left of its message."""
        unacked = UnackedHash(capture.channel)
        commands = unacked.restoring(lost.tag) if lost.tag else None
        tag, after_publish = lost.tag if commands is not None else "", AfterPublish()
        if commands is None and lost.copy is not None:
            commands = capture.copied(lost.copy)
        if commands is None and lost.record is not None:
            destination = self._destination(lost)
            commands = capture.commands(lost.record, lost.task_id, after_publish, destination=destination)
        if commands is None:
            return None
        resent = BrokerCommands(lost.resent(command) for command in commands)
        if self._shares:
            packed, targets = resent.packed(front=True)
            sent = self._remove(lost, packed, targets, tag)
        else:
            resent.add(unacked.acknowledging(tag) if tag else ())
            capture.channel.run(resent, front=True)
            sent = self._remove(lost)
        after_publish.send()
        return sent

    def _publish(self, singly: Singly, lost: _LostTask) -> int | None:
        """To any other broker; None where nothing is left of its message."""
        if lost.copy is None and lost.record is None:
            return None
        destination = self._destination(lost)
        if self._full.has(destination):
            self._full.note(lost.task_id, destination)
            return 0
        try:
            self._publish_to(singly, destination, lost)
        except Exception as error:
            singly.close()
            if is_refused(error):
                self._full.note(lost.task_id, destination)
            raise
        return self._remove(lost)

    def _publish_to(self, singly: Singly, destination: Destination | None, lost: _LostTask) -> None:
        if destination is not None:
            destination = at_once(destination) if self._is_due(lost) else destination
            ensure_queue(self._app, singly.connection, destination)
        if lost.copy is not None and destination is not None:
            headers = lost.headers(lost.copy.headers)
            publish_copy(singly.producer, lost.copy._replace(headers=headers, exchange=destination.exchange))
        elif lost.record is not None:
            order = {"retries": lost.retries, "replaced_task_nesting": lost.nesting}
            record = replace(lost.record, options={**lost.record.options, **order})
            send(self._app, singly.producer, record, lost.task_id, destination=destination)

    def _is_due(self, lost: _LostTask) -> bool:
        """Whether a task with an ETA need not be held back any more."""
        eta = lost.copy.headers.get("eta") if lost.copy else lost.record.options.get("eta") if lost.record else None
        at: Any = maybe_iso8601(eta)
        return at is not None and bool(maybe_make_aware(at, tz=self._app.timezone) <= self._app.now())

    def _remove(self, lost: _LostTask, commands: Any = (), targets: Any = (), tag: str = "") -> int:
        """Take it off the list, and push it in the same step where broker and store are one; 0 if it was off before.

        Args:
            lost: the task.
            commands: that push its message.
            targets: their keys.
            tag: of the message that is acknowledged with it, "" if none is.
        """
        reach("lost.sending")
        sent = script("resent")(
            self._store, targets=targets, id=lost.task_id, since=repr(lost.since), commands=commands,
            flag="delegated" if lost.is_delegated else "run", tag=tag,
            unacked=self._broker.unacked, unacked_index=self._broker.received,
        )  # fmt: skip
        reach("lost.sent")
        return int(sent)

    def _record(self, task_id: str) -> Record | None:
        where = item_address(task_id)
        stored = None if where is None else record_at(self._store, where.place)
        return None if stored is None else decode(stored.record, stored.unit_task)

    def _destination(self, lost: _LostTask) -> Destination | None:
        """Where the last message of a task went, as far as it is on record."""
        if lost.copy is not None:
            return Destination(lost.copy.exchange, lost.copy.routing_key)
        task_id, where = lost.task_id, item_address(lost.task_id)
        if where is None:
            return None
        index = item_index(task_id)
        (later,) = sent_later_to(self._store, where.poll_id, [index])
        if later:
            return from_json_destination(later)
        (first,) = published_to(self._store, where.poll_id, [where.place.chunk])
        return by_index(first).get(index)

    def name(self, task_id: str) -> str | None:
        """Name of the task of an item in the ledger."""
        record = self._record(task_id)
        return None if record is None else record.task

    def _fail(self, lost: _LostTask, reason: str) -> None:
        """End a task that is not resent; the rest of its chain fails with it."""
        task = self._app.tasks.get(lost.task)
        error = TaskLost(f"task {lost.task_id} is lost: {reason}")
        request = None if lost.copy is None else request_of(lost.copy)
        celery_results.store_failure(self._app, task, lost.task_id, error, request)
        end = TaskEnd(
            task_id=lost.task_id, task=lost.task, status=LOST, exception=error, nonce="*", announce=announces(task)
        )
        announce(self._app, end)
        remove_lost(self._store, lost.task_id)
