"""Messages on a Redis broker that no worker has any more: one received them, did not begin, and is gone.

Kombu keeps what was received and not acknowledged in one hash for all workers, without saying whose it is, and puts it
back after ``visibility_timeout``, an hour. Every worker of ours reports the delivery tags that it has. A message has no
worker if it is in the hash and no living worker has reported it for two heartbeats *since it was seen there*. It goes
back to the front of its queue. No clock but the store's takes part.

The worker that received a message and reported it nowhere is not known, and another namespace may share the broker. An
item is of the namespace that has its batch. A message that was sent by hand counts as ours only if it came into the
hash while a worker of this namespace was dying; all others are left to the namespace of their worker, and to kombu.

Most of what lies in that hash may be no concern of ours: a worker keeps every task with a countdown there. A message is
read once, some in each pass, and what is not ours is left alone from then on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from celery_perpetual import events
from celery_perpetual.broker.capturing import CapturingChannel
from celery_perpetual.broker.commands import BrokerCommands
from celery_perpetual.broker.message_copy import Copy
from celery_perpetual.broker.unacked_hash import UnackedHash
from celery_perpetual.leases.interest import Interest, interest_by
from celery_perpetual.ledger.ids import item_address
from celery_perpetual.recovery.losses import declare_lost
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.batches import known_batches
from celery_perpetual.store.commands.leases import WAITING, leases_of, states_of
from celery_perpetual.store.work_list import AHEAD_MS
from celery_perpetual.telemetry import emit, some

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


#: Messages that one pass reads, and how many it reads in one call: more would hold the server up.
MOST_NEW, AT_ONCE = 2_000, 100

#: For how long a death is remembered.
DEATH_MS = 3_600_000


class _Seen(NamedTuple):
    """A delivery that no living worker has reported."""

    since: int
    """Store time at which it was first seen."""
    received_at: float
    """By the clock of the worker that received it."""
    task_id: str
    guarded: bool
    """Whether its task runs under a lease: others are not put back, and are not missing either."""


class UnackedMessages:
    """Finds them and puts them back. For one thread; it remembers what it saw from pass to pass."""

    def __init__(self, app: Celery, grants: Grants) -> None:
        self._app = app
        self._grants = grants
        self._restored: list[str] = []
        """The messages that this pass has put back and not reported yet."""
        self._seen: dict[str, _Seen] = {}
        """By tag."""
        self._foreign: dict[str, float] = {}
        """Deliveries that are no concern of ours: tag -> when it was received."""
        self._deaths: list[tuple[int, int]] = []
        """When workers of this namespace were dying: from and to, ms of the store's time."""
        self._at = 0
        """When the last pass was: ms of the store's time."""
        self._reported: set[str] = set()
        """Tags that a worker has had long enough to report them: receiving them did not kill it."""

    def died(self, tags: set[str]) -> int:
        """Put back what a worker had received, reported and not begun that is found dead now; returns how many.

        The store forgets the worker, and with it what it had reported, only after this: a process that dies in between
        leaves the rest to the next one. What had begun is on the list of lost tasks, and stays for that.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        now, store = self._grants.store.now(), self._grants.store
        # It died at some time since its last report, which is a lease time ago.
        window = (now - store.limits.lease_ttl - 2 * store.limits.gap, now + store.limits.gap)
        self._deaths = [*(each for each in self._deaths if each[1] > now - DEATH_MS), window]
        self._reported |= tags
        with self._hash() as (channel, unacked):
            # The hash may be long, and many workers may have died.
            received = {tag: at for part in chunks(tags, AT_ONCE) for tag, at in unacked.received_of(part).items()}
            # The oldest goes back last, and comes first.
            left = sorted(received, key=received.__getitem__, reverse=True)
            return sum(
                self._put_back(channel, unacked, tag)
                for part in chunks(left, AT_ONCE)
                for tag in self._not_begun(unacked, part)
            )

    def _not_begun(self, unacked: UnackedHash, tags: list[str]) -> list[str]:
        """Those of some deliveries that need a lease and have had none since they were lost last."""
        copies = unacked.copies(tags)
        ids, store = [str(copy.headers.get("id")) for copy in copies.values()], self._grants.store
        known = zip(copies.items(), leases_of(store, ids), states_of(store, ids), strict=True)
        return [
            tag
            for (tag, copy), lease, state in known
            if not lease and (state is None or state.flag in (*WAITING, "delegated")) and self._needs_lease(copy)
        ]

    def _needs_lease(self, copy: Copy) -> bool:
        task_id, name = str(copy.headers.get("id")), str(copy.headers.get("task"))
        interest = interest_by(self._grants.settings, self._app.tasks.get(name), task_id, copy.headers)
        return Interest.LEASE in interest

    @contextmanager
    def _hash(self) -> Iterator[tuple[CapturingChannel, UnackedHash]]:
        """A connection to the broker; in the end what was put back is reported."""
        channel = CapturingChannel(self._app)
        try:
            yield channel, UnackedHash(channel)
        finally:
            channel.close()
            if restored := self._restored:
                self._restored = []
                emit(events.DELIVERIES_RESTORED, count=len(restored), tasks=some(restored))

    def restore(self) -> tuple[int, set[str] | None]:
        """One pass; returns how many messages were put back, and whose messages are in the hash.

        The latter is None while there is more in the hash than was read.

        A message that its worker never reported was received in the moment in which it died, and may be why: that
        counts as a recovery, and after ``max_recoveries`` the task is parked.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        with self._hash() as (channel, unacked):
            now, gap = self._grants.store.now(), self._grants.store.limits.gap
            self._begin_pass(now)
            received = unacked.received()
            # Messages of a worker that dies during this pass are left to `died`, which knows what has begun.
            reports = self._grants.workers.all(dead_for=gap)
            workers = [each for each in reports if each.deadline > now]
            claimed = received.keys() & {tag for worker in reports for tag in worker.tags}
            is_whole = self._see(unacked, now, {tag: at for tag, at in received.items() if tag not in claimed})
            # A worker that lives may let go of them, for example when it loses its connection.
            self._reported |= claimed
            # A message is in the hash before its worker's own code has seen it.
            before = min((worker.reported_at for worker in workers), default=now) - gap
            known = {seen.task_id for seen in self._seen.values()} if is_whole else None
            ready = [
                tag
                for tag, seen in self._seen.items()
                if seen.guarded and (tag in self._reported or (seen.since < before and self._may_be_ours(seen)))
            ]
            return sum(self._put_back(channel, unacked, tag) for tag in reversed(ready)), known

    def _begin_pass(self, now: int) -> None:
        """Where the store's clock was ahead at the last pass, what was noted then counts as noted now."""
        if now < self._at - AHEAD_MS:
            self._seen.clear()
            latest = now + self._grants.store.limits.gap
            self._deaths = [(min(begin, now), min(end, latest)) for begin, end in self._deaths]
        self._at = now

    def _see(self, unacked: UnackedHash, now: int, unclaimed: Mapping[str, float]) -> bool:
        """Keep the deliveries that were seen before and are still there; read some of the rest.

        Returns:
            Whether that was all of it.
        """
        before = self._seen
        self._seen = {tag: seen for tag, seen in before.items() if unclaimed.get(tag) == seen.received_at}
        self._foreign = {tag: at for tag, at in self._foreign.items() if unclaimed.get(tag) == at}
        self._reported &= unclaimed.keys() - (before.keys() - self._seen.keys())
        new = sorted(unclaimed.keys() - self._seen.keys() - self._foreign.keys(), key=unclaimed.__getitem__)
        known_polls: dict[str, bool] = {}
        for part in chunks(new[:MOST_NEW], AT_ONCE):
            for tag, copy in unacked.copies(part).items():
                task_id, guarded = str(copy.headers.get("id")), self._needs_lease(copy)
                if self._is_known(task_id, known_polls) if item_address(task_id) is not None else guarded:
                    self._seen[tag] = _Seen(now, unclaimed[tag], task_id, guarded)
                else:
                    self._foreign[tag] = unclaimed[tag]
        return len(new) <= MOST_NEW

    def _may_be_ours(self, seen: _Seen) -> bool:
        if item_address(seen.task_id) is not None:
            return True
        return any(begin <= seen.since <= end for begin, end in self._deaths)

    def _put_back(self, channel: CapturingChannel, unacked: UnackedHash, tag: str) -> bool:
        copy = unacked.copy(tag)
        if copy is None:
            return False
        task_id, name = str(copy.headers.get("id")), str(copy.headers.get("task"))
        if not self._is_known(task_id, {}):
            return False
        if tag not in self._reported:
            kept = "" if item_address(task_id) is not None and not copy.headers.get("retries") else copy.to_json()
            verdict = declare_lost(self._app, self._grants, task_id, name, counts=True, tag=tag, copy=kept)
            if verdict in ("parked", "fail"):
                channel.run(BrokerCommands(unacked.acknowledging(tag)))
            if verdict != "gone":
                emit(events.DELIVERY_LOST, task_id=task_id, verdict=verdict)
                return verdict == "resend"
        commands = unacked.restoring(tag)
        if commands is None:
            return False
        channel.run(BrokerCommands([*commands, *unacked.acknowledging(tag)]), front=True)
        self._seen.pop(tag, None)
        self._restored.append(task_id)
        return True

    def _is_known(self, task_id: str, polls: dict[str, bool]) -> bool:
        """Another namespace may share the broker, and have items of the same tasks.

        Args:
            task_id: of any task.
            polls: whether polls are known, as far as that was asked already.
        """
        where = item_address(task_id)
        if where is None:
            return True
        if where.poll_id not in polls:
            polls[where.poll_id] = bool(known_batches(self._grants.store, [where.poll_id]))
        return polls[where.poll_id]
