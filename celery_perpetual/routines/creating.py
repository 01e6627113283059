"""Creates routines, 500 at a time in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from celery_perpetual.errors import AlreadyExists, IdempotencyConflict, InvalidRoutine, StoreUnavailable
from celery_perpetual.ledger.record import task_of
from celery_perpetual.routines.fields import Reader
from celery_perpetual.routines.record import Record
from celery_perpetual.routines.routine import Routine, shown
from celery_perpetual.routines.storage import EXISTS, KEY, Change, are_written, begin_rows, read_many, rows_of
from celery_perpetual.store.chunks import chunks
from celery_perpetual.store.one_ahead import OneAhead
from celery_perpetual.times import format_ms

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
    created: list[Routine] = []
    with OneAhead[list[Routine]]() as ahead:
        for part in chunks(made):
            step = _Step(store, part)
            created += ahead.reply() or []
            ahead.begin(step.begin())
        created += ahead.reply() or []
    return created


class _Step:
    """All of these routines are created, or none. The next step is made ready while the store does this one."""

    def __init__(self, store: Store, records: Sequence[Record]) -> None:
        """Check them against each other.

        Raises:
            AlreadyExists: two have the same id.
            IdempotencyConflict: two have the same idempotency key and other fields.
        """
        self._store = store
        self._records = records
        self._by_key: dict[str, Record] = {}
        ids: set[str] = set()
        for record in records:
            if record.id in ids:
                raise AlreadyExists(f"routine {record.id!r} is given twice; nothing of this step was created")
            ids.add(record.id)
            if record.key:
                _must_be_the_same(self._by_key.setdefault(record.key, record), record)
        self._found: dict[str, Record] = {}
        """By idempotency key: routines that are there already."""
        self._look()

    def _look(self) -> None:
        """See which routines are new, as far as it is known."""
        by_key, found = self._by_key, self._found
        self._new = [
            each for each in self._records if not each.key or (each.key not in found and by_key[each.key] is each)
        ]
        self._rows = rows_of(self._store, [Change(None, each, "created", _facts(each)) for each in self._new])

    def begin(self) -> Callable[[], list[Routine]]:
        """Send the step; what is returned waits for it, and returns the routine of each of its fields.

        Raises:
            AlreadyExists, IdempotencyConflict, StoreUnavailable: when it is called; nothing of this step was created.
        """
        words_of = begin_rows(self._store, len(self._new), self._rows)
        return lambda: self._finish(words_of)

    def _finish(self, words_of: Callable[[], list[str]]) -> list[Routine]:
        for _ in range(MOST_TRIES):
            results = [self._result(each) for each in self._records]  # while the store writes
            words = words_of()
            if are_written(words):
                return results
            self._found |= _holders(self._store, zip(self._new, words, strict=True))
            self._look()
            words_of = begin_rows(self._store, len(self._new), self._rows) if self._new else list
        raise StoreUnavailable(f"routines were created and removed {MOST_TRIES} times by others meanwhile; try again")

    def _result(self, record: Record) -> Routine:
        if record.key in self._found:
            return shown(self._found[record.key], created=False)
        first = self._by_key.get(record.key, record)
        return shown(first, created=first is record)


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


def _must_be_the_same(stored: Record, asked: Record) -> None:
    if stored.digest != asked.digest:
        raise IdempotencyConflict(
            f"idempotency key {asked.key!r} belongs to routine {stored.id!r}, which was created with other fields; "
            "nothing of this step was created. Use the same fields, or another key"
        )


def _facts(record: Record) -> Mapping[str, Any]:
    return {
        "task": task_of(record.item), "schedule": str(record.timetable),
        "next_run_at": None if record.next is None else format_ms(record.next),
    }  # fmt: skip
