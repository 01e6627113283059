"""Items whose message is nowhere any more.

On Redis a consumer pops a message from its list and writes it down as received in two steps; if it dies in between, the
message is in no key at all. Other brokers drop messages by their rules: those that expire, that exceed the length of
their queue, that are delivered too often. On every broker a queue can be purged, deleted or lost. And a task without a
lease that was acknowledged early is gone with its worker. The ledger knows every unfinished item, so it shows:

* the item is not executed, does not wait for an operator, and has not replaced itself;
* no living worker has it, by reports that are newer than the moment at which it was missed first;
* and its message has left its queue: queues are first in, first out, so once the oldest message there is younger than
  the item's publication, or the queue is empty, it has left it. Redis shows the oldest message; elsewhere a message
  that a worker has received shows that what was published before it is gone.

A living worker may have such a message too: Kombu asks for the next one before it may have it, and while the worker is
busy the answer stays unread in its socket. So what is missing for two heartbeats is taken for lost only if a worker has
died meanwhile, and then it counts as a recovery: a message that kills every worker that receives it is parked in the
end. (Elsewhere than on Redis it is counted where it is received.) What is missing for a lease time longer is resent
without being counted. A wrong guess costs a second delivery, which the guard drops.

An item whose time has expired meanwhile is not resent, it ends as expired. Nor is one that needs no lease, because
nothing shows whether it ran: it ends as lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_perpetual import events
from celery_perpetual.broker.destinations import Destination, by_index, from_json
from celery_perpetual.broker.native_delay import held_back
from celery_perpetual.broker.queue_sizes import QueueSizes
from celery_perpetual.broker.queues import ListAges
from celery_perpetual.completions.completion import EXPIRED
from celery_perpetual.leases.interest import needs_lease
from celery_perpetual.ledger.ids import base, item_address, item_id, item_index, made_at
from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.record import read_item
from celery_perpetual.recovery.losses import declare_lost, end_as_expired
from celery_perpetual.store.chunks import CHUNK, chunk_count
from celery_perpetual.store.commands.batches import batch, open_batches
from celery_perpetual.store.commands.destinations import published_to, sent_later_to
from celery_perpetual.store.commands.leases import WAITING, StateText, leases_of, states_of
from celery_perpetual.store.commands.records import open_positions, record_at
from celery_perpetual.store.work_list import AHEAD_MS, pull_back
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants
    from celery_perpetual.leases.workers import WorkerState


#: Batches that one pass reads; the next pass begins behind them.
MOST_BATCHES = 50

#: Items that are remembered as missing.
MOST_ITEMS = 10_000


@dataclass(slots=True)
class Missing:
    """An item whose message no process has."""

    since: int
    """When it was missed first: ms of the store's time."""
    sure_since: int | None
    """Since when its queue shows that it is not there; None where the queue cannot tell just now."""


class MissingMessages:
    """Finds lost messages and has them resent. For one thread; it remembers what it saw from pass to pass."""

    def __init__(self, app: Celery, grants: Grants) -> None:
        self._app = app
        self._grants = grants
        self._missing: dict[str, Missing] = {}
        """By task id."""
        self._destinations: dict[str, Mapping[int, Destination]] = {}
        """By poll id: where the items went, by index."""
        self._behind = "-inf"
        self._at = 0
        """When this pass began, or the last one: ms of the store's time."""

    def once(self, last_death: int, received: Collection[str]) -> int:
        """One pass; returns how many items are to be resent.

        Args:
            last_death: when a dead worker was found last: ms of the store's time.
            received: ids of tasks whose messages the broker has among the unacked.
        """
        store, gap = self._grants.store, self._grants.store.limits.gap
        now = store.now()
        if now < self._at - AHEAD_MS:  # the store's clock was ahead: what was seen then would be missing for ever
            self._missing.clear()
        self._at = now
        last_death = last_death if last_death <= now + AHEAD_MS else 0
        pull_back(store, store.keys.open, now)
        found = open_batches(store, self._behind, now - gap, MOST_BATCHES)
        whole = self._behind == "-inf" and len(found) < MOST_BATCHES
        self._behind = f"({found[-1][1]:.0f}" if len(found) == MOST_BATCHES else "-inf"
        polls = [poll for poll, _ in found]
        if whole:
            self._forget(set(polls))
        if not polls:
            return 0
        workers = self._grants.workers.all()
        claimed = {task_id for worker in workers for task_id in worker.tags.values()}.union(received)
        with closing(self._queues(workers, claimed)) as queues:
            for poll, committed_at in found:
                self._examine(queues, poll, int(committed_at), claimed)
        patience = gap + self._grants.store.limits.lease_ttl
        oldest_report = min((worker.reported_at for worker in workers), default=0)
        return sum(
            self._lost(task_id, counts=missing.since <= last_death, missing_for=now - missing.sure_since)
            for task_id, missing in list(self._missing.items())
            if missing.sure_since is not None
            and missing.sure_since < oldest_report
            and now - missing.sure_since > (gap if missing.since <= last_death else patience)
        )

    def _queues(self, workers: Sequence[WorkerState], claimed: Collection[str]) -> ListAges | QueueSizes:
        """The broker's facts on its queues just now."""
        latest = self._at + AHEAD_MS
        if self._grants.broker_is_redis:
            return ListAges(self._app, latest)
        newest: dict[Destination, int] = {}
        for task_id in claimed:
            destination = self._published_to(task_id)
            if destination is not None:
                made = made_at(task_id)
                newest[destination] = max(made if made <= latest else 0, newest.get(destination, 0))
        # While such a worker runs a task, it reads nothing of what it is sent.
        deaf = [worker.info for worker in workers if worker.info.get("pool") == "solo" and worker.info.get("active")]
        return QueueSizes(self._app, newest, {queue for info in deaf for queue in info.get("queues", ())})

    def _published_to(self, task_id: str) -> Destination | None:
        where = item_address(task_id)
        if where is None:
            return None
        if where.poll_id not in self._destinations:
            facts = batch(self._grants.store, where.poll_id)
            if facts is None or facts.published < facts.total:
                return None
            self._destinations_of(where.poll_id, facts.total)
        return self._destinations[where.poll_id].get(where.index)

    def _forget(self, polls: set[str]) -> None:
        """Forget the batches that are finished."""
        self._destinations = {poll: found for poll, found in self._destinations.items() if poll in polls}
        bases = {base(poll) for poll in polls}
        self._missing = {task_id: seen for task_id, seen in self._missing.items() if base(task_id) in bases}

    def _examine(self, queues: ListAges | QueueSizes, poll: str, committed_at: int, claimed: Collection[str]) -> None:
        """Note the items of a batch that have not ended, are not executed, and are with no worker."""
        facts = batch(self._grants.store, poll)
        if facts is None or facts.published < facts.total or facts.published_at is None:
            return
        # Published while the store's clock was ahead, it is as old as its entry on the list, which is pulled back.
        at = facts.published_at if facts.published_at <= self._at + AHEAD_MS else committed_at
        if self._at - at < self._grants.store.limits.gap:
            return
        destinations = self._destinations_of(poll, facts.total)
        left = {each for each in set(destinations.values()) if queues.are_younger(each, at)}
        unfinished = self._unfinished(poll, facts.total) if left or facts.moved or self._missing else []
        open_ids = {task_id for task_id, _ in unfinished}
        for task_id in [each for each in self._missing if base(each) == base(poll) and each not in open_ids]:
            del self._missing[task_id]
        sent_later = self._sent_later(poll, [task_id for task_id, state in unfinished if state is not None])
        for task_id, state in unfinished:
            if task_id in claimed or (state is not None and state.flag not in WAITING):
                self._missing.pop(task_id, None)
                continue
            destination = sent_later.get(task_id) or destinations.get(item_index(task_id))
            # One that was sent before may be anywhere in its queue: only an empty one has lost it.
            is_gone = queues.are_empty if state is not None else left.__contains__
            sent_at = at if state is None or state.since > self._at + AHEAD_MS else state.since
            is_sure = destination is not None and sent_at + held_back(destination) <= self._at and is_gone(destination)
            self._note(task_id, sure=is_sure)

    def _destinations_of(self, poll: str, total: int) -> Mapping[int, Destination]:
        """Where the items of a batch were published to, by index."""
        found = self._destinations.get(poll)
        if found is None:
            texts = published_to(self._grants.store, poll, range(chunk_count(total)))
            found = {index: destination for text in texts for index, destination in by_index(text).items()}
            self._destinations[poll] = found
        return found

    def _sent_later(self, poll: str, task_ids: list[str]) -> Mapping[str, Destination]:
        """Where retries and replacements of items were published to."""
        texts = sent_later_to(self._grants.store, poll, [item_index(each) for each in task_ids])
        return {task_id: from_json(text) for task_id, text in zip(task_ids, texts, strict=True) if text}

    def _note(self, task_id: str, *, sure: bool) -> None:
        """Remember whether its queue shows that the message of an item is not there."""
        missing = self._missing.get(task_id)
        if missing is None:
            if sure and len(self._missing) < MOST_ITEMS:
                self._missing[task_id] = Missing(self._at, self._at)
        elif not sure:
            missing.sure_since = None
        elif missing.sure_since is None:
            missing.sure_since = self._at

    def _unfinished(self, poll: str, total: int) -> list[tuple[str, StateText | None]]:
        """Ids and states of the items of a batch that have not ended and are not executed."""
        store = self._grants.store
        found: list[tuple[str, StateText | None]] = []
        for chunk in range(chunk_count(total)):
            ids = [item_id(poll, chunk * CHUNK + position) for position in open_positions(store, poll, chunk)]
            leases, states = leases_of(store, ids), states_of(store, ids)
            found += [(task_id, state) for task_id, lease, state in zip(ids, leases, states, strict=True) if not lease]
        return found

    def _lost(self, task_id: str, *, counts: bool, missing_for: int) -> int:
        where = item_address(task_id)
        assert where is not None
        found = record_at(self._grants.store, where.place)
        if found is None:
            del self._missing[task_id]
            return 0
        item = read_item(found.record, found.unit_task)
        if missing_for < self._patience_with(item):
            return 0
        del self._missing[task_id]
        if self._has_expired(item, made_at(task_id)):
            end_as_expired(self._app, task_id, item.task)
            emit(events.MESSAGE_LOST, task_id=task_id, verdict=EXPIRED)
            return 0
        verdict = declare_lost(self._app, self._grants, task_id, item.task, counts=counts)
        if verdict != "gone":
            emit(events.MESSAGE_LOST, task_id=task_id, verdict=verdict)
        return int(verdict != "gone")

    def _patience_with(self, item: CheckedItem) -> float:
        """Milliseconds: what a frozen worker was sent, the broker has again only when it misses its heartbeat."""
        if self._grants.broker_is_redis or needs_lease(self._app.tasks.get(item.task)):
            return 0.0
        heartbeat: Any = self._app.conf.broker_heartbeat
        return 2000 * float(heartbeat or 0)

    def _has_expired(self, item: CheckedItem, polled_at: int) -> bool:
        """Whether a message of an item is not to be run any more, by its option or that of its task."""
        expires = item.options.get("expires", getattr(self._app.tasks.get(item.task), "expires", None))
        if expires is None:
            return False
        if isinstance(expires, int | float):
            return polled_at + 1000 * expires < self._grants.store.now()
        at: Any = maybe_iso8601(expires)
        return bool(maybe_make_aware(at, tz=self._app.timezone) < self._app.now())
