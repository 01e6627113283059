"""Items whose message is nowhere any more, on a Redis broker.

A consumer pops a message from its list and writes it down as received in two steps; if it dies in between, the message
is in no key at all. Other brokers lose nothing in this way. The ledger knows every unfinished item, so it shows:

* the item is not executed, does not wait for an operator, and has not replaced itself;
* no living worker has it in its hands, by reports that are newer than the moment at which it was missed first;
* and its message has left its queue: queues are first in, first out, so once the oldest message there is younger than
  the item's publication, or the queue is empty, it has been popped.

A living worker may have such a message too: Kombu asks for the next one before it may have it, and while the worker is
busy the answer stays unread in its socket. So what is missing for two heartbeats is taken for lost only if a worker has
died meanwhile, and then it counts as a recovery: a message that kills whoever receives it is parked in the end. What is
missing for a lease time longer is sent again without being counted. A wrong guess costs a second delivery, which the
guard drops.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery_perpetual import events
from celery_perpetual.broker.queues import oldest_publication
from celery_perpetual.ledger.ids import base, item_id, parse_item_id
from celery_perpetual.ledger.record import decode
from celery_perpetual.publishing.capture import Capture
from celery_perpetual.store.chunks import CHUNK
from celery_perpetual.store.commands.batches import batch, open_batches
from celery_perpetual.store.commands.leases import StateText, leases_of, states_of
from celery_perpetual.store.commands.records import all_records, open_positions, record_at
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.leases.grants import Grants


#: Batches that one pass looks at; the next pass begins behind them.
MOST_BATCHES = 50

#: Items that are remembered as missing.
MOST_ITEMS = 10_000


@dataclass(slots=True)
class Missing:
    """An item that nobody has."""

    since: int
    """When it was missed first: ms of the store's time."""
    sure_since: int | None
    """Since when its queue shows that it is not there; None where the queue cannot tell just now."""


class MissingMessages:
    """Finds lost messages and has them sent again. For one thread; it remembers what it saw from pass to pass."""

    def __init__(self, app: Celery, leases: Grants) -> None:
        self._app = app
        self._leases = leases
        self._missing: dict[str, Missing] = {}
        """By task id."""
        self._lists: dict[str, frozenset[str]] = {}
        """Poll id -> the broker's lists that its messages go to."""
        self._behind = "-inf"

    def once(self, last_death: int, received: Collection[str]) -> int:
        """One pass; returns how many items are sent again.

        Args:
            last_death: when a dead worker was found last: ms of the store's time.
            received: ids of tasks whose messages the broker has among those that somebody received.
        """
        store, gap = self._leases.store, self._leases.store.limits.gap
        now = store.now()
        found = open_batches(store, self._behind, now - gap, MOST_BATCHES)
        whole = self._behind == "-inf" and len(found) < MOST_BATCHES
        self._behind = f"({found[-1][1]:.0f}" if len(found) == MOST_BATCHES else "-inf"
        polls = [poll for poll, _ in found]
        if whole:
            self._forget(set(polls))
        if not polls:
            return 0
        workers = self._leases.workers.all()
        claimed = {task_id for worker in workers for task_id in worker.tags.values()}.union(received)
        capture = Capture(self._app)
        try:
            for poll in polls:
                self._look(capture, poll, now, gap, claimed)
        finally:
            capture.close()
        patience = gap + round(self._leases.settings.lease_ttl * 1000)
        oldest_word = min((worker.reported_at for worker in workers), default=0)
        return sum(
            self._lost(task_id, counts=missing.since <= last_death)
            for task_id, missing in list(self._missing.items())
            if missing.sure_since is not None
            and missing.sure_since < oldest_word
            and now - missing.sure_since > (gap if missing.since <= last_death else patience)
        )

    def _forget(self, polls: set[str]) -> None:
        """Batches that are finished."""
        self._lists = {poll: lists for poll, lists in self._lists.items() if poll in polls}
        bases = {base(poll) for poll in polls}
        self._missing = {task_id: seen for task_id, seen in self._missing.items() if base(task_id) in bases}

    def _look(self, capture: Capture, poll: str, now: int, gap: int, claimed: set[str]) -> None:
        """Which items of a batch are unfinished, not executed, and in nobody's hands."""
        facts = batch(self._leases.store, poll)
        if facts is None or facts.published < facts.total or facts.published_at is None:
            return
        at = facts.published_at
        if now - at < gap:
            return
        lists = self._lists.get(poll)
        if lists is None:
            lists = self._lists[poll] = self._lists_of(capture, poll, facts.total, facts.task)
        borders = [oldest_publication(capture.channel, each) for each in lists]
        popped = all(border is None or border > at for border in borders)
        empty = all(border is None for border in borders)
        unfinished = self._unfinished(poll, facts.total) if popped or self._missing else []
        open_ids = {task_id for task_id, _ in unfinished}
        for task_id in [each for each in self._missing if base(each) == base(poll) and each not in open_ids]:
            del self._missing[task_id]
        for task_id, state in unfinished:
            if task_id in claimed or (state is not None and state.flag not in ("run", "wait")):
                self._missing.pop(task_id, None)
                continue
            # One that was sent before is somewhere near the front of its queue: only an empty one has lost it.
            self._note(task_id, now, sure=empty if state is not None else popped)

    def _note(self, task_id: str, now: int, *, sure: bool) -> None:
        missing = self._missing.get(task_id)
        if missing is None:
            if sure and len(self._missing) < MOST_ITEMS:
                self._missing[task_id] = Missing(now, now)
        elif not sure:
            missing.sure_since = None
        elif missing.sure_since is None:
            missing.sure_since = now

    def _unfinished(self, poll: str, total: int) -> list[tuple[str, StateText | None]]:
        """Ids and states of the items of a batch that have not ended and are not executed."""
        store = self._leases.store
        found: list[tuple[str, StateText | None]] = []
        for chunk in range(-(-total // CHUNK)):
            ids = [item_id(poll, chunk * CHUNK + position) for position in open_positions(store, poll, chunk)]
            leases, states = leases_of(store, ids), states_of(store, ids)
            found += [(task_id, state) for task_id, lease, state in zip(ids, leases, states, strict=True) if not lease]
        return found

    def _lists_of(self, capture: Capture, poll: str, total: int, unit_task: str) -> frozenset[str]:
        store, lists = self._leases.store, set()
        for chunk in range(-(-total // CHUNK)):
            heads = {_kind(record): record for record in all_records(store, poll, chunk)}
            for record in heads.values():
                commands = capture.commands(decode(record, unit_task), item_id(poll, 0))
                lists |= {command.key for command in commands if command.name == "LPUSH"}
        return frozenset(lists)

    def _lost(self, task_id: str, *, counts: bool) -> int:
        self._missing.pop(task_id, None)
        verdict = self._leases.missed(task_id, self._task_name(task_id), counts=counts)
        if verdict != "gone":
            emit(events.MESSAGE_LOST, task_id=task_id, verdict=verdict)
        return int(verdict != "gone")

    def _task_name(self, task_id: str) -> str:
        where = parse_item_id(task_id)
        assert where is not None
        found = record_at(self._leases.store, where.place)
        return "" if found is None else decode(found.record, found.unit_task).task


def _kind(record: bytes) -> bytes:
    """What decides where a message goes, without its arguments: the options in the head of a record."""
    head, _, rest = record.partition(b"\n")
    _, key, options = head.split(b" ")
    start = 0 if key == b"-" else int(key)
    return rest[start : start + int(options)]
