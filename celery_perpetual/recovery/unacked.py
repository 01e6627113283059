"""Messages on a Redis broker that nobody has any more: a worker received them, did not begin, and is gone.

Kombu keeps what was received and not acknowledged in one hash for all workers, without saying whose it is, and puts it
back after ``visibility_timeout``, an hour. Every worker of ours reports the delivery tags that it has. A message that
is in the hash, and that no living worker has reported for two heartbeats *since it was seen there*, belongs to nobody
and goes back to the front of its queue. No clock but the store's takes part. Messages of tasks that are not ours are
left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual import events
from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.unacked_hash import UnackedHash
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


class _Seen(NamedTuple):
    """A delivery that no living worker has reported."""

    since: int
    """Store time at which it was first seen."""
    received_at: float
    """By the clock of whoever received it."""
    task_id: str


class UnackedMessages:
    """Finds them and puts them back. For one thread; it remembers what it saw from pass to pass."""

    def __init__(self, app: Celery, leases: Grants) -> None:
        self._app = app
        self._leases = leases
        self._seen: dict[str, _Seen] = {}
        """By tag."""
        self._reported: set[str] = set()
        """Tags that a worker had long enough to report them before it died: they did not kill it."""

    def died(self, tags: set[str]) -> None:
        """A worker that had reported these tags is dead."""
        self._reported |= tags

    def restore(self) -> tuple[int, set[str]]:
        """One pass; returns how many messages were put back, and whose messages it knows to be in the hash.

        A message that its worker never reported was received in the moment in which it died, and may be why: that
        counts as a recovery, and after ``max_recoveries`` the task is parked.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        channel = CapturingChannel(self._app)
        unacked = UnackedHash(channel)
        try:
            now = self._leases.store.now()
            received = unacked.received()
            workers = self._leases.workers.all()
            for worker in workers:
                for tag in worker.tags:
                    received.pop(tag, None)
            self._see(unacked, now, received)
            # A message is in the hash before its worker's own code has seen it.
            before = min((worker.reported_at for worker in workers), default=now) - self._leases.store.limits.gap
            known = {seen.task_id for seen in self._seen.values()}
            ready = [tag for tag, seen in self._seen.items() if tag in self._reported or seen.since < before]
            return sum(self._put_back(channel, unacked, tag) for tag in ready), known
        finally:
            channel.close()

    def _see(self, unacked: UnackedHash, now: int, unclaimed: Mapping[str, float]) -> None:
        """Go on with what was seen before, and is the same delivery still."""
        before, self._seen = self._seen, {}
        for tag, received_at in unclaimed.items():
            seen = before.get(tag)
            if seen is not None and seen.received_at != received_at:
                self._reported.discard(tag)
                seen = None
            self._seen[tag] = seen or _Seen(now, received_at, unacked.task_id(tag))
        self._reported &= self._seen.keys()

    def _put_back(self, channel: CapturingChannel, unacked: UnackedHash, tag: str) -> bool:
        copy = unacked.copy(tag)
        if copy is None:
            return False
        task_id, name = str(copy.headers.get("id")), str(copy.headers.get("task"))
        if not self._leases.guards(self._app.tasks.get(name), task_id, copy.headers) or not self._is_known(task_id):
            return False
        if tag not in self._reported:
            kept = "" if item_address(task_id) is not None and not copy.headers.get("retries") else copy.to_json()
            verdict = self._leases.missed(task_id, name, counts=True, tag=tag, copy=kept)
            if verdict == "parked":
                unacked.acknowledge(tag)
            if verdict != "gone":
                emit(events.DELIVERY_LOST, task_id=task_id, verdict=verdict)
                return verdict == "resend"
        commands = unacked.restoring(tag)
        if commands is None:
            return False
        # The copy before the original is acknowledged: twice is harmless, never is not.
        channel.run(BrokerCommands(commands), front=True)
        unacked.acknowledge(tag)
        self._seen.pop(tag, None)
        emit(events.DELIVERY_RESTORED, task_id=task_id)
        return True

    def _is_known(self, task_id: str) -> bool:
        """Another namespace may share the broker, and have items of the same tasks."""
        where, store = item_address(task_id), self._leases.store
        with store.errors("batch"):
            return where is None or bool(store.redis.exists(store.keys.poll(where.poll_id)))
