"""Items that replaced themselves by a chain, a group or a chord, and have not ended for long.

The tasks that replace such an item are ordinary messages. If the broker loses one of them, the item waits for an end
that never comes, and no list leads to that message: only an operator can end the item. So it is noted when it has
waited for longer than the step ``event`` of the starvation ladder allows. It may also be that one of those tasks just
takes that long, so nothing else follows.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from celery_perpetual.ledger.ids import item_address
from celery_perpetual.starvation.own import thresholds_of
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.batches import batches_of
from celery_perpetual.store.commands.leases import StateText, leases_of, states_page
from celery_perpetual.store.commands.replaced import REPLACED, note_replaced, remove_replaced, trim_replaced
from celery_perpetual.store.work_list import AHEAD_MS
from celery_perpetual.times import ms

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store
    from celery_perpetual.thresholds import Thresholds

#: Items of which it is remembered when they were seen first, because the clock was ahead when they replaced themselves.
MOST_AHEAD = 10_000

#: A pass that is to see all reads no further page after so many seconds.
LONGEST_ROUND = 10.0


class ReplacedItems:
    """Notes them, a page of the states in each pass. For one thread."""

    def __init__(self, app: Celery, store: Store, thresholds: Thresholds) -> None:
        """Nothing is done yet.

        Args:
            thresholds: of tasks that have none of their own.
        """
        self._app = app
        self._store = store
        self._thresholds = thresholds
        self._cursor = 0
        self._ahead: dict[str, int] = {}
        """Task id -> when it was seen first, ms of the store's time."""

    def once(self, *, whole: bool = False) -> None:
        """Note those of a page of the states, and take those off the list of which it is not true any more.

        Args:
            whole: of all pages, or those that can be read within ten seconds.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        begun = time.monotonic()
        listed = trim_replaced(self._store)
        remove_replaced(self._store, listed.keys() - self._long(listed, self._store.now()).keys())
        while True:
            self._cursor, page = states_page(self._store, self._cursor)
            now = self._store.now()
            states = [(task_id, StateText.among_others(text)) for task_id, text in page]
            since = {each: self._since(each, state.since, now) for each, state in states if state.flag == REPLACED}
            leases = leases_of(self._store, list(since))
            ended = {each: at for (each, at), lease in zip(since.items(), leases, strict=True) if lease is None}
            note_replaced(self._store, self._long(ended, now))
            if not whole or not self._cursor or time.monotonic() - begun > LONGEST_ROUND:
                return

    def _long(self, since: Mapping[str, int], now: int) -> dict[str, int]:
        """Those of these items that have waited for too long, by the steps of the tasks that have polled them."""
        polls = {each: where.poll_id for each in since if (where := item_address(each)) is not None}
        found: dict[str, int] = {}
        for part in chunks(polls):
            known = sorted({polls[each] for each in part})
            batches = dict(zip(known, batches_of(self._store, known), strict=True))
            for task_id in part:
                facts = batches[polls[task_id]]
                patience = None if facts is None else thresholds_of(self._app, facts.task, self._thresholds).event
                if patience is not None and now - since[task_id] > ms(patience):
                    found[task_id] = since[task_id]
        return found

    def _since(self, task_id: str, written: int, now: int) -> int:
        """When it replaced itself; where that lies ahead, as the clock was set back, when it was seen first."""
        if written <= now + AHEAD_MS:
            return written
        if len(self._ahead) >= MOST_AHEAD:
            self._ahead.clear()
        seen = self._ahead.setdefault(task_id, now)
        if seen > now + AHEAD_MS:  # the clock was set back once more
            seen = self._ahead[task_id] = now
        return seen
