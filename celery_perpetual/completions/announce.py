"""Announces ends: one script per end, bounded in time, and nothing is forgotten while the process lives.

``finish`` runs after Celery's result backend has stored the state, so whoever is told can ask for the result at once.
It never raises into the task and never waits longer than ``perpetual_store_timeout``. While the store does not answer,
ends are kept, up to a bound, and a thread tries until it does; tasks that end meanwhile do not wait again.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from celery.exceptions import SoftTimeLimitExceeded
from celery.utils.log import get_logger

from celery_perpetual.completions.batches import send_batch_done
from celery_perpetual.completions.completion import VERSION, error_of, inline
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.faults import reach
from celery_perpetual.ledger import item_slots
from celery_perpetual.publishing import books_of
from celery_perpetual.store import Of, Prepared, Store

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.settings import Settings

logger = get_logger(__name__)

#: Ends that wait for the store, per process.
MOST_WAITING = 10_000
RETRY_SECONDS = 0.5

_json = json.JSONEncoder().encode
_quoted = json.encoder.encode_basestring_ascii

#: What the script answers for the end that counts.
FIRST = 1


def _text(value: Any) -> str:
    """JSON of what is nearly always text."""
    return _quoted(value) if isinstance(value, str) else _json(value)


@dataclass(slots=True, kw_only=True)
class End:
    """One end of one task; never changed once made."""

    task_id: str
    task: str | None
    status: str
    announce: bool = True
    result: Any = None
    exception: Any = None
    runtime: float | None = None
    worker: str | None = None
    attempt: int = 1
    meta: Any = None
    nonce: str = ""
    """Of the delivery that ended; "" where there was no lease, ``*`` for an operator."""
    leased: bool = False
    """Whether it ran under a lease: without that lease its end is late."""
    tag: str = ""
    """Delivery tag of a message that is in the broker's books until this end is stored."""

    def head(self) -> str:
        """The record without what only the store knows, and without its closing brace."""
        if not self.announce:
            return ""
        # As json.dumps writes it, which takes several times as long for a dict; every task waits for this.
        runtime = "null" if self.runtime is None else f"{self.runtime:.6f}"
        error = "null" if self.exception is None else _json(error_of(self.exception))
        meta = _json(self.meta) if self.meta else "{}"
        return (
            f'{{"v": {VERSION}, "task_id": {_text(self.task_id)}, "task": {_text(self.task)}, '
            f'"status": "{self.status}", "final": true, "runtime": {runtime}, "worker": {_text(self.worker)}, '
            f'"attempt": {self.attempt}, "error": {error}, "meta": {meta}, "result": {inline(self.result)}'
        )


class Announcer:
    """Settles and announces ends, now or as soon as the store answers."""

    def __init__(self, app: Celery, store: Store, settings: Settings) -> None:
        self._app = app
        self._store = store.clone(patient=False)
        self._settings = settings
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._waiting: deque[tuple[End, str]] = deque(maxlen=MOST_WAITING)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @cached_property
    def _finish(self) -> Prepared:
        keys, settings, books = self._store.keys, self._settings, books_of(self._app)
        return Prepared(
            self._store, "finish",
            everybody=keys.everybody, events=keys.events, counters=keys.counters, batches=keys.batches,
            leases=keys.leases, states=keys.states, copies=keys.copies, parked=keys.parked, again=keys.again,
            batch_ttl=_ms(settings.tombstone_ttl), record_ttl=_ms(settings.completion_ttl),
            queue_ttl=_ms(settings.queue_ttl), maxlen=settings.events_maxlen, prefix=keys.prefix,
            completion=(keys.completion_prefix, Of("id")), channel=(keys.channel_prefix, Of("id")),
            queue=(keys.channel_prefix, Of("id"), keys.QUEUE), batch=(keys.poll_prefix, Of("poll")),
            batch_channel=(keys.channel_prefix, Of("poll")), tombs=keys.tombs_prefix,
            unacked=books.unacked, index=books.received,
        )  # fmt: skip

    def finish(self, end: End) -> None:
        """Settle one end. Returns within ``perpetual_store_timeout``."""
        if self._pid != os.getpid():  # forked: the parent's ends are the parent's
            self._reset()
        reach("task.finishing")
        self._waiting.append((end, end.head()))
        if self._thread is None or not self.down:
            self.settle()
        if self._waiting:
            self._settle_later()

    @property
    def down(self) -> bool:
        """Whether ends wait for a store that did not answer."""
        return self._thread is not None and self._thread.is_alive()

    def settle(self) -> bool:
        """Tell the store everything that waits, oldest first; False if it does not answer."""
        while True:
            try:
                end, head = self._waiting.popleft()
            except IndexError:
                return True
            try:
                self._settle(end, head)
            except StoreUnavailable as error:
                self._waiting.appendleft((end, head))
                logger.warning("perpetual: the end of %s is told later: %s", end.task_id, error)
                return False
            except SoftTimeLimitExceeded:  # raised wherever the task is: nothing is wrong with its end
                self._waiting.appendleft((end, head))
                return False
            except Exception:
                logger.exception("perpetual: the end of task %s could not be settled", end.task_id)

    def tell(self, end: End) -> int:
        """Settle an end at once: :data:`FIRST`, or another number where the task had ended before, or is not known.

        Raises:
            StoreUnavailable: the store did not answer.
        """
        return self._settle(end, end.head())

    def _settle(self, end: End, head: str) -> int:
        where = item_slots(self._store.keys, end.task_id)
        first, batch_done = self._finish(
            id=end.task_id, status=end.status, head=head, nonce=end.nonce, started=int(end.leased), tag=end.tag, **where
        )
        reach("task.finished")
        if batch_done:  # the broker may be slow, and the task that happened to be the last has ended
            threading.Thread(target=send_batch_done, args=(self._app, self._store, where["poll"]), daemon=True).start()
        return int(first)

    def _settle_later(self) -> None:
        with self._lock:
            if not self.down:
                self._thread = threading.Thread(target=self._keep_trying, name="perpetual-ends", daemon=True)
                self._thread.start()

    def flush(self, seconds: float) -> None:
        """Before the process ends: try for a while. The thread may hold an end in its hand."""
        deadline = time.monotonic() + seconds
        if self._pid == os.getpid() and self._thread is not None:
            self._thread.join(seconds)
        while not self.settle() and time.monotonic() < deadline:
            time.sleep(RETRY_SECONDS)

    def _keep_trying(self) -> None:
        while self._waiting:
            time.sleep(RETRY_SECONDS)
            self.settle()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
