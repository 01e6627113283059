"""What is known of some ids: the records, then the ledger, then Celery's own results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from celery.backends.base import DisabledBackend, KeyValueStoreBackend
from celery.backends.rpc import RPCBackend
from celery.utils.log import get_logger

from celery_perpetual.completions.completion import PENDING, UNKNOWN, Completion, from_celery, from_json
from celery_perpetual.ledger import chunks, place
from celery_perpetual.store import Store

if TYPE_CHECKING:
    from celery import Celery

logger = get_logger(__name__)


def records(store: Store, ids: Sequence[str]) -> dict[str, Completion]:
    """The stored completions of those ids that have one."""
    found: dict[str, Completion] = {}
    for part in chunks(ids):
        with store.errors("completions"):
            texts = store.redis.mget([store.keys.completion(task_id) for task_id in part])
        found.update((task_id, from_json(text)) for task_id, text in zip(part, texts, strict=True) if text)
    return found


def answers(app: Celery, store: Store, ids: Sequence[str]) -> dict[str, Completion]:
    """What can be said at once: ends, and ids of our form that nobody knows."""
    found = records(store, ids)
    rest = [task_id for task_id in ids if task_id not in found]
    waiting = _in_ledger(store, rest)
    rest = [task_id for task_id in rest if task_id not in waiting]
    found.update(celery_results(app, rest))
    strangers = [task_id for task_id in rest if task_id not in found and place(task_id) is not None]
    found.update(records(store, strangers))  # it may have ended between the two looks
    return found | {each: Completion(task_id=each, status=UNKNOWN) for each in strangers if each not in found}


def pending(task_id: str) -> Completion:
    """The state of a task that has not ended."""
    return Completion(task_id=task_id, status=PENDING, final=False)


def _in_ledger(store: Store, ids: Sequence[str]) -> set[str]:
    """Those ids that the ledger holds as unfinished."""
    waiting: set[str] = set()
    ours = [(task_id, where) for task_id in ids if (where := place(task_id)) is not None]
    for part in chunks(ours):
        pipe = store.redis.pipeline(transaction=False)
        for _, where in part:
            pipe.exists(store.keys.poll(where.poll_id))
            pipe.lindex(store.keys.chunk(where.poll_id, where.chunk), where.position)
            pipe.getbit(store.keys.done(where.poll_id, where.chunk), where.position)
        with store.errors("ledger"):
            rows = iter(pipe.execute())
        for (task_id, _), known, record, done in zip(part, rows, rows, rows, strict=True):
            if known and record is not None and not done:
                waiting.add(task_id)
    return waiting


def celery_results(app: Celery, ids: Iterable[str]) -> dict[str, Completion]:
    """The ends that Celery's result backend knows; none if it cannot be asked."""
    backend, wanted = app.backend, list(ids)
    if not wanted or isinstance(backend, DisabledBackend | RPCBackend):
        return {}
    try:
        metas = _metas(backend, wanted)
    except Exception as error:  # noqa: BLE001  # a foreign server's trouble must not end a wait
        logger.warning("perpetual: the result backend could not be asked: %s", error)
        return {}
    found = ((task_id, from_celery(task_id, meta)) for task_id, meta in metas)
    return {task_id: completion for task_id, completion in found if completion is not None}


def _metas(backend: Any, ids: Sequence[str]) -> Iterable[tuple[str, Any]]:
    if not isinstance(backend, KeyValueStoreBackend):
        return [(task_id, backend.get_task_meta(task_id)) for task_id in ids]
    found = []
    for part in chunks(ids):
        texts = backend.mget([backend.get_key_for_task(task_id) for task_id in part])
        for task_id, text in zip(part, texts, strict=True):
            if text:
                found.append((task_id, backend.meta_from_decoded(backend.decode(text))))
    return found
