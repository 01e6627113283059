"""What is known of some ids: the records, then the ledger, then Celery's own results."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend

from celery_perpetual import events
from celery_perpetual.completions.batches import BatchResult, batch_result
from celery_perpetual.completions.completion import PENDING, UNKNOWN, Completion, from_celery, from_json
from celery_perpetual.errors import NotFound
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.completions import completions_of
from celery_perpetual.store.commands.records import are_open
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery import Celery


#: Reads of one process that run at the same time, each on a connection of its own, however many wait.
READERS = 4


class Lookup:
    """Reads for the waits of one process. Safe to use from any number of threads."""

    def __init__(self, app: Celery, store: Store) -> None:
        self._app = app
        self._store = store
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._turns = threading.BoundedSemaphore(READERS)
        self._asking = threading.Lock()
        self._backend: Any = None

    def _turn(self) -> threading.BoundedSemaphore:
        if self._pid != os.getpid():  # forked: those whose turn it was are threads of the parent
            self._reset()
        return self._turns

    def records(self, ids: Sequence[str]) -> dict[str, Completion]:
        """The stored completions of those ids that have one."""
        found: dict[str, Completion] = {}
        for part in chunks(ids):
            with self._turn():
                texts = completions_of(self._store, part)
            found.update((task_id, from_json(text)) for task_id, text in zip(part, texts, strict=True) if text)
        return found

    def answers(self, ids: Sequence[str]) -> dict[str, Completion]:
        """What can be said at once: ends, and ids of our form that nobody knows."""
        found = self.records(ids)
        waiting = self._in_ledger([task_id for task_id in ids if task_id not in found])
        rest = [task_id for task_id in ids if task_id not in found and task_id not in waiting]
        by_celery = self.celery_results(rest)
        ours = {task_id for task_id in rest if parse_item_id(task_id) is not None}
        # These may have ended between the two looks, and our record says more than Celery's result.
        found |= by_celery | self.records([*ours, *(task_id for task_id in by_celery if task_id not in ours)])
        strangers = ours - found.keys()
        return found | {task_id: Completion(task_id=task_id, status=UNKNOWN) for task_id in strangers}

    def batch(self, poll_id: str) -> BatchResult:
        """The counters of a batch.

        Raises:
            NotFound: no batch of this id is known.
        """
        with self._turn():
            result = batch_result(self._store, poll_id)
        if result is None:
            raise NotFound(
                f"no batch of poll {poll_id!r} is known; a poll without items has no batch, and old batches expire"
            )
        return result

    def _in_ledger(self, ids: Sequence[str]) -> set[str]:
        """Those ids that the ledger holds as unfinished."""
        waiting: set[str] = set()
        ours = [(task_id, where) for task_id in ids if (where := parse_item_id(task_id)) is not None]
        for part in chunks(ours):
            with self._turn():
                found = are_open(self._store, [where.place for _, where in part])
            waiting.update(task_id for (task_id, _), is_open in zip(part, found, strict=True) if is_open)
        return waiting

    def celery_results(self, ids: Iterable[str]) -> dict[str, Completion]:
        """The ends that Celery's result backend knows; none if it cannot be asked."""
        wanted = list(ids)
        if not wanted:
            return {}
        self._turn()
        try:
            with self._asking:
                # One for all threads: each new `app.backend` would bring a connection of its own.
                self._backend = self._backend or self._app.backend
                metas = _metas(self._backend, wanted)
        except Exception as error:  # a foreign server's trouble must not end a wait
            emit(events.BACKEND_SILENT, error=error)
            return {}
        found = ((task_id, from_celery(task_id, meta)) for task_id, meta in metas)
        return {task_id: completion for task_id, completion in found if completion is not None}


def answers(app: Celery, store: Store, ids: Sequence[str]) -> dict[str, Completion]:
    """What can be said at once: ends, and ids of our form that nobody knows."""
    return Lookup(app, store).answers(ids)


def pending(task_id: str) -> Completion:
    """The state of a task that has not ended."""
    return Completion(task_id=task_id, status=PENDING, final=False)


def _metas(backend: Any, ids: Sequence[str]) -> list[tuple[str, Any]]:
    if isinstance(backend, DisabledBackend | RPCBackend):  # it knows nothing, or only what it was sent
        return []
    if not isinstance(backend, RedisBackend):
        return [(task_id, backend.get_task_meta(task_id)) for task_id in ids]
    found = []
    for part in chunks(ids):
        texts = backend.mget([backend.get_key_for_task(task_id) for task_id in part])
        found += [(task_id, backend.decode_result(text)) for task_id, text in zip(part, texts, strict=True) if text]
    return found
