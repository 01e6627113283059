"""Lists of routines: by their last change, or by when they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import InvalidRoutine
from celery_perpetual.ledger.record import task_of
from celery_perpetual.routines.record import RUNNING, STATES, Record, decode
from celery_perpetual.routines.routine import Routine, shown
from celery_perpetual.routines.storage import read_many
from celery_perpetual.store.commands.routines import due_ids, routine_records, routines_by_update
from celery_perpetual.times import to_ms

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store


def find(
    store: Store,
    *,
    state: str | None,
    task: Any,
    routine_id: str | None,
    due_before: datetime | None,
    metadata: Mapping[str, Any] | None,
    limit: int | None,
) -> list[Routine]:
    """See :meth:`Routines.list`."""
    if state is not None and state not in STATES:
        raise InvalidRoutine(f"filter state must be one of {', '.join(STATES)}, got {state!r}", "state", state)
    name = task if task is None or isinstance(task, str) else getattr(task, "name", None)
    if name is None and task is not None:
        raise InvalidRoutine(f"filter task must be a task or the name of one, got {task!r}", "task", task)
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidRoutine(f"filter metadata must be a dict, got {metadata!r}", "metadata", metadata)
    if routine_id is not None and not isinstance(routine_id, str):
        raise InvalidRoutine(f"filter id must be text, got {routine_id!r}", "id", routine_id)
    before, most = checked_time("due_before", due_before), checked_limit(limit)

    def fits(record: Record) -> bool:
        return (
            (state is None or record.state == state)
            and (before is None or (record.next is not None and record.next <= before))
            and (metadata is None or all(record.metadata.get(each, _NONE) == value for each, value in metadata.items()))
            and (name is None or task_of(record.item) == name)
        )

    records = _all(store) if routine_id is None else iter(read_many(store, [routine_id]))
    return [shown(record) for record in islice(filter(fits, records), most)]


_NONE = object()


def _all(store: Store) -> Iterator[Record]:
    """Every routine once, though one that is changed meanwhile moves to the front."""
    seen: set[str] = set()
    for page in routines_by_update(store):
        for routine_id, text in page:
            if routine_id not in seen:
                seen.add(routine_id)
                yield decode(routine_id, text)


def due(store: Store, at: datetime | None, limit: int | None, include_claimed: bool) -> list[Routine]:
    """See :meth:`Routines.list_due`."""
    time, most = checked_time("at", at), checked_limit(limit)
    if not isinstance(include_claimed, bool):
        raise InvalidRoutine(
            f"include_claimed must be True or False, got {include_claimed!r}", "include_claimed", include_claimed
        )
    until = store.now() if time is None else time
    found = due_ids(store, until, most, running=False)
    if include_claimed:
        found = sorted(found + due_ids(store, until, most, running=True), key=lambda each: (each[1], each[0]))
    ids = [each for each, _ in found[:most]]
    texts = routine_records(store, ids)
    records = [decode(each, text) for each, text in zip(ids, texts, strict=True) if text is not None]
    return [shown(record) for record in records if include_claimed or record.state != RUNNING]


def checked_time(name: str, seen: Any) -> int | None:
    """An aware datetime as milliseconds."""
    if seen is None:
        return None
    if not isinstance(seen, datetime) or seen.utcoffset() is None:
        raise InvalidRoutine(f"{name} must be a datetime with a time zone, got {seen!r}", name, seen)
    return to_ms(seen)


def checked_limit(seen: int | None) -> int | None:
    """A number of routines."""
    if seen is not None and (isinstance(seen, bool) or not isinstance(seen, int) or seen < 1):
        raise InvalidRoutine(f"limit must be a whole number of at least 1, got {seen!r}", "limit", seen)
    return seen
