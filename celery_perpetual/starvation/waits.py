"""The items that wait for a worker, the oldest batches first; a part of them in each pass.

Since when an item is runnable costs no write of its own: it is when its batch was published, or its ETA if that is
later; and for an item that was sent once more it is when that happened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from celery.utils.time import maybe_iso8601, maybe_make_aware

from celery_perpetual.broker.destinations import by_index, from_json
from celery_perpetual.broker.queue_sizes import place_of
from celery_perpetual.ledger.ids import item_address, item_id, item_index
from celery_perpetual.ledger.record import read_item
from celery_perpetual.store.chunks import CHUNK, chunk_count
from celery_perpetual.store.commands.batches import Batch, batches_of, open_batches
from celery_perpetual.store.commands.destinations import published_to, sent_later_to
from celery_perpetual.store.commands.leases import WAITING, leases_of, states_of
from celery_perpetual.store.commands.records import open_positions, records_at
from celery_perpetual.store.work_list import AHEAD_MS
from celery_perpetual.times import to_ms

if TYPE_CHECKING:
    from collections.abc import Mapping

    from celery import Celery

    from celery_perpetual.broker.destinations import Destination
    from celery_perpetual.store.connection import Store

#: Batches and items that one pass reads; the next pass begins behind them.
MOST_BATCHES, MOST_ITEMS = 500, 5_000

#: Items of which it is remembered what their records say, and that are read at once.
MOST_KNOWN, AT_ONCE = 50_000, 50


class Wait(NamedTuple):
    """An item that no worker has started."""

    task_id: str
    task: str
    """Name of its task."""
    polled_by: str
    """Name of the perpetual task whose poll it is of; "" for the run of a routine."""
    queue: str
    """The place of its message, see :func:`place_of`."""
    since: int
    """Since when it is runnable: ms of the store's time."""
    seen: str
    """When the state was written that it has (ms); "" where it has none."""
    is_retry: bool
    """It has sent a retry of itself; its ETA is not known."""


class Part(NamedTuple):
    """Some of the open batches."""

    batches: list[tuple[str, int, Batch]]
    """Poll id, when it was published (ms), and its facts."""
    is_last: bool
    """Whether the round ends with it."""


class Waits:
    """Walks through the open batches, again and again. For one thread."""

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store
        self._behind = 0
        """How many of the oldest batches this round has behind it."""
        self._known: dict[str, tuple[str, int]] = {}
        """Task id -> name of its task, and its ETA (ms; 0 = it has none)."""

    def begin_anew(self) -> None:
        """Begin another round."""
        self._behind = 0

    def next_part(self, now: int, patience: int) -> Part:
        """The next part of this round: unfinished batches that are older than ``patience`` (ms).

        Args:
            now: the store's time, ms.
            patience: ms.
        """
        found = open_batches(self._store, "-inf", now - patience, MOST_BATCHES, self._behind)
        batches: list[tuple[str, int, Batch]] = []
        items = taken = 0
        for (poll, committed_at), facts in zip(
            found, batches_of(self._store, [poll for poll, _ in found]), strict=True
        ):
            taken += 1
            if facts is not None and facts.published >= facts.total and facts.published_at is not None:
                # Published while the store's clock was ahead, it is as old as its entry on the list.
                is_ahead = facts.published_at > now + AHEAD_MS
                batches.append((poll, int(committed_at) if is_ahead else facts.published_at, facts))
                items += facts.total
            if items >= MOST_ITEMS:
                break
        is_last = taken == len(found) < MOST_BATCHES
        self._behind = 0 if is_last else self._behind + taken
        if len(self._known) > MOST_KNOWN:
            self._known.clear()
        return Part(batches, is_last)

    def of(self, part: Part, now: int, wants: Callable[[str, int], bool]) -> Iterator[Wait]:
        """The items of a part that wait.

        Args:
            part: of the round.
            now: the store's time, ms.
            wants: asked with a queue and a time (ms) whether items that have been runnable for so long are of interest
                there; the answer may change from item to item.
        """
        for poll, at, facts in part.batches:
            for chunk in range(chunk_count(facts.total)):
                yield from self._of_chunk(poll, chunk, facts, at, now, wants)

    def _of_chunk(
        self, poll: str, chunk: int, facts: Batch, at: int, now: int, wants: Callable[[str, int], bool]
    ) -> Iterator[Wait]:
        store = self._store
        sent_to = by_index(published_to(store, poll, [chunk])[0])
        names = {each: place_of(self._app, each) for each in set(sent_to.values())}
        if not facts.moved and not any(wants(queue, now - at) for queue in names.values()):
            return
        ids = [item_id(poll, chunk * CHUNK + position) for position in open_positions(store, poll, chunk)]
        leases, states = leases_of(store, ids), states_of(store, ids)
        waiting = [
            (task_id, state)
            for task_id, lease, state in zip(ids, leases, states, strict=True)
            if lease is None and (state is None or state.flag in WAITING)
        ]
        later = self._sent_later(poll, [task_id for task_id, _ in waiting]) if facts.moved else {}
        for place, (task_id, state) in enumerate(waiting):
            destination = later.get(task_id) or sent_to.get(item_index(task_id))
            queue = "" if destination is None else names.get(destination) or place_of(self._app, destination)
            since = max(at, 0 if state is None else min(state.since, now))
            if not queue or not wants(queue, now - since):
                continue
            if task_id not in self._known:
                self._read([each for each, _ in waiting[place : place + AT_ONCE]])
            task, eta = self._known[task_id]
            since = max(since, eta)
            if wants(queue, now - since):
                is_retry = state is not None and state.flag == "wait"
                seen = "" if state is None else str(state.since)
                yield Wait(task_id, task, facts.task, queue, since, seen, is_retry)

    def _sent_later(self, poll: str, ids: list[str]) -> Mapping[str, Destination]:
        texts = sent_later_to(self._store, poll, [item_index(each) for each in ids])
        return {task_id: from_json(text) for task_id, text in zip(ids, texts, strict=True) if text}

    def _read(self, ids: list[str]) -> None:
        """Remember what the records of items say."""
        places = [where.place for task_id in ids if (where := item_address(task_id)) is not None]
        for task_id, found in zip(ids, records_at(self._store, places), strict=True):
            item = None if found is None else read_item(found.record, found.unit_task)
            at: Any = None if item is None else maybe_iso8601(item.options.get("eta"))
            eta = 0 if at is None else to_ms(maybe_make_aware(at, tz=self._app.timezone))
            self._known[task_id] = ("" if item is None else item.task, eta)
