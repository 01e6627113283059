"""Lists of routines: by their last change, or by when they are due."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

from celery_perpetual.ledger.record import task_of
from celery_perpetual.routines.checks import LAST, a_count, a_truth, refusal
from celery_perpetual.routines.record import RUNNING, STATES, Record
from celery_perpetual.routines.routine import Routine, shown
from celery_perpetual.routines.storage import read_many, read_readable, readable
from celery_perpetual.store.commands.routines import due_ids, routines_by_update
from celery_perpetual.times import to_ms_floor

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
        raise refusal("state", state, f"one of {', '.join(STATES)}", "filter ")
    name = task if task is None or isinstance(task, str) else getattr(task, "name", None)
    if name is None and task is not None:
        raise refusal("task", task, "a task or the name of one", "filter ")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise refusal("metadata", metadata, "a dict", "filter ")
    if routine_id is not None and not isinstance(routine_id, str):
        raise refusal("id", routine_id, "text", "filter ")
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
                if (record := readable(routine_id, text)) is not None:
                    yield record


def due(store: Store, at: datetime | None, limit: int | None, include_claimed: bool) -> list[Routine]:
    """See :meth:`Routines.list_due`."""
    time, most = checked_time("at", at), checked_limit(limit)
    a_truth("include_claimed", include_claimed, "")
    until = store.now() if time is None else time
    found = due_ids(store, until, most, running=False)
    if include_claimed:
        found = sorted(found + due_ids(store, until, most, running=True), key=lambda each: (each[1], each[0]))
    ids = [each for each, _ in found[:most]]
    records = read_readable(store, ids)
    return [shown(record) for record in records if include_claimed or record.state != RUNNING]


def checked_time(name: str, seen: Any) -> int | None:
    """An aware datetime as milliseconds; one that no routine can have is the nearest that it can."""
    if seen is None:
        return None
    if not isinstance(seen, datetime) or seen.utcoffset() is None:
        raise refusal(name, seen, "a datetime with a time zone", "")
    return max(0, min(to_ms_floor(seen), LAST))


def checked_limit(seen: int | None) -> int | None:
    """A number of routines."""
    return None if seen is None else a_count("limit", seen, "")
