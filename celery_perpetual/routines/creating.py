"""Creates routines, 500 at a time in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import AlreadyExists, IdempotencyConflict, InvalidRoutine, StoreUnavailable
from celery_perpetual.ledger.record import read_item
from celery_perpetual.routines.fields import Reader
from celery_perpetual.routines.record import Record
from celery_perpetual.routines.routine import Routine, shown
from celery_perpetual.routines.storage import EXISTS, KEY, Change, are_written, begin_write, read_many
from celery_perpetual.store.chunks import chunks
from celery_perpetual.times import format_time, to_datetime

if TYPE_CHECKING:
    from celery import Celery

    from celery_perpetual.store.connection import Store

#: Routines whose keys others use at the same time are looked up again, so many times.
MOST_TRIES = 20


def create_records(
    app: Celery, store: Store, routines: Iterable[Mapping[str, Any]], must_be_allowed: Callable[[Record], None]
) -> list[Routine]:  # fmt: skip
    """See :meth:`Routines.create_many`.

    Args:
        app: of the tasks.
        store: where they are kept.
        routines: the fields of each.
        must_be_allowed: raises for a routine that may not be created.
    """
    reader, now, made = Reader(app), store.now(), list[Record]()
    for given in routines:
        if not isinstance(given, Mapping):
            raise InvalidRoutine(f"create_many: a routine must be a dict of fields, got {given!r}", "routines", given)
        made.append(reader.new(given, now))
        must_be_allowed(made[-1])
    return [routine for part in chunks(made) for routine in _create(store, part)]


def _create(store: Store, records: Any) -> list[Routine]:
    """One step: all of these, or none."""
    by_key: dict[str, Record] = {}
    ids: set[str] = set()
    for record in records:
        if record.id in ids:
            raise AlreadyExists(f"routine {record.id!r} is given twice; nothing of this step was created")
        ids.add(record.id)
        if record.key:
            _must_be_the_same(by_key.setdefault(record.key, record), record)
    found: dict[str, Record] = {}
    """By idempotency key: routines that are there already."""
    for _ in range(MOST_TRIES):
        new = [each for each in records if not each.key or (each.key not in found and by_key[each.key] is each)]
        words_of = begin_write(store, [Change(None, each, "created", _facts(each)) for each in new]) if new else list
        results = [_result(each, by_key, found) for each in records]  # while the store writes
        words = words_of()
        if are_written(words):
            return results
        found |= _holders(store, zip(new, words, strict=True))
    raise StoreUnavailable(f"routines were created and removed {MOST_TRIES} times by others meanwhile; try again")


def _holders(store: Store, answers: Iterable[tuple[Record, str]]) -> dict[str, Record]:
    """The routines that have the idempotency keys of records which could not be created, by key.

    Raises:
        AlreadyExists: an id is that of a routine with another key, or without one.
        IdempotencyConflict: the routine of a key was created with other fields.
    """
    asked: dict[str, Record] = {}
    for record, word in answers:
        if word == EXISTS and not record.key:
            raise _exists(record)
        if word == EXISTS or word.startswith(KEY):
            asked[record.id if word == EXISTS else word.removeprefix(KEY)] = record
    found = {}
    for holder in read_many(store, list(asked)):
        record = asked[holder.id]
        if holder.key == record.key:
            _must_be_the_same(holder, record)
            found[record.key] = holder
        elif holder.id == record.id:
            raise _exists(record)
    return found


def _exists(record: Record) -> AlreadyExists:
    return AlreadyExists(f"routine {record.id!r} exists already; nothing of this step was created")


def _result(record: Record, by_key: Mapping[str, Record], found: Mapping[str, Record]) -> Routine:
    if record.key in found:
        return shown(found[record.key], created=False)
    first = by_key.get(record.key, record)
    return shown(first, created=first is record)


def _must_be_the_same(stored: Record, asked: Record) -> None:
    if stored.digest != asked.digest:
        raise IdempotencyConflict(
            f"idempotency key {asked.key!r} belongs to routine {stored.id!r}, which was created with other fields; "
            "nothing of this step was created. Use the same fields, or another key"
        )


def _facts(record: Record) -> Mapping[str, Any]:
    return {
        "task": read_item(record.item, "").task, "schedule": str(record.timetable),
        "next_run_at": None if record.next is None else format_time(to_datetime(record.next)),
    }  # fmt: skip
