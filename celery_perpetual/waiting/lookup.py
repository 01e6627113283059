"""The ends that are known of some ids: from the records, then the ledger, then Celery's own results."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.backends.base import DisabledBackend
from celery.backends.redis import RedisBackend
from celery.backends.rpc import RPCBackend

from celery_perpetual import events
from celery_perpetual.completions.batches import BatchResult, batch_result
from celery_perpetual.completions.celery_results import bounded
from celery_perpetual.completions.completion import PENDING, UNKNOWN, Completion, from_celery, from_json
from celery_perpetual.errors import NotFound
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.commands.completions import completions_of
from celery_perpetual.store.commands.records import are_open
from celery_perpetual.store.connection import Store
from celery_perpetual.telemetry import emit
from celery_perpetual.waiting.readers import Readers

if TYPE_CHECKING:
    from celery import Celery


#: Reads of one process that run at the same time, however many wait.
READERS = 4


class Lookup:
    """Reads for the waits of one process."""

    def __init__(self, app: Celery, store: Store) -> None:
        self.store = store
        self.readers = Readers(READERS, "perpetual-reader")
        """For the reads of the store."""
        # One thread, so that a result backend that does not answer keeps no read of the store waiting.
        self._asking = Readers(1, "perpetual-backend")
        self._app = app
        self._backend: Any = None

    def channel(self, task_or_poll_id: str) -> str:
        """The channel on which the end of a task or of a batch is published."""
        return self.store.keys.channel(task_or_poll_id)

    def records(self, ids: Sequence[str]) -> dict[str, Completion]:
        """The stored completions of those ids that have one."""
        found: dict[str, Completion] = {}
        for part in chunks(ids):
            texts = completions_of(self.store, part)
            found.update((task_id, from_json(text)) for task_id, text in zip(part, texts, strict=True) if text)
        return found

    def records_and_strangers(self, ids: Sequence[str]) -> tuple[dict[str, Completion], list[str]]:
        """The stored completions, and those other ids that the ledger does not hold as unfinished."""
        found = self.records(ids)
        waiting = self._in_ledger([task_id for task_id in ids if task_id not in found])
        return found, [task_id for task_id in ids if task_id not in found and task_id not in waiting]

    def unknown(self, ids: Iterable[str], found: Container[str]) -> dict[str, Completion]:
        """Those ids of our form of which nothing was found."""
        strangers = (task_id for task_id in ids if task_id not in found and parse_item_id(task_id) is not None)
        return {task_id: Completion(task_id=task_id, status=UNKNOWN) for task_id in strangers}

    def batch(self, poll_id: str) -> BatchResult:
        """The counters of a batch.

        Raises:
            NotFound: no batch of this id is known.
        """
        result = batch_result(self.store, poll_id)
        if result is None:
            raise NotFound(
                f"no batch of poll {poll_id!r} is known; a poll without items has no batch, and old batches expire"
            )
        return result

    def _in_ledger(self, ids: Sequence[str]) -> set[str]:
        """Those ids that the ledger holds as unfinished."""
        waiting: set[str] = set()
        items = [(task_id, where) for task_id in ids if (where := parse_item_id(task_id)) is not None]
        for part in chunks(items):
            found = are_open(self.store, [where.place for _, where in part])
            waiting.update(task_id for (task_id, _), is_open in zip(part, found, strict=True) if is_open)
        return waiting

    def ask_celery(self, ids: Sequence[str]) -> Future[dict[str, Completion]]:
        """Ask Celery's result backend for ends; it has none where it cannot be asked."""
        return self._asking.submit(partial(self._celery_results, ids))

    def _celery_results(self, ids: Sequence[str]) -> dict[str, Completion]:
        try:
            # One for all reads: each new `app.backend` would bring a connection of its own.
            self._backend = self._backend or bounded(self._app.backend)
            metas = _metas(self._backend, ids)
        except Exception as error:  # a foreign server's trouble must not end a wait
            emit(events.BACKEND_SILENT, error=error)
            return {}
        found = ((task_id, from_celery(task_id, meta)) for task_id, meta in metas)
        return {task_id: completion for task_id, completion in found if completion is not None}


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
