"""Reads and writes records of routines. A write takes effect only if the record is still the one that was read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from celery_perpetual import events
from celery_perpetual.routines.record import PAUSED, RUNNING, Record, decode, encode
from celery_perpetual.routines.texts import text_of
from celery_perpetual.store.commands.routines import routine_and_time, routine_records
from celery_perpetual.store.scripts import script
from celery_perpetual.telemetry import emit

if TYPE_CHECKING:
    from celery_perpetual.store.connection import Store

#: Words of the scripts about one change.
OK, DONE = "ok", "done"
EXISTS, GONE, STALE, KEY = "exists", "gone", "stale", "key "


class Change(NamedTuple):
    """One change of one routine."""

    before: Record | None
    """As it was read; None: it is new."""
    after: Record | None
    """None: it is removed."""
    event: str = ""
    """The name of the event that reports it, behind ``routine.``; "" for none."""
    facts: Mapping[str, Any] = {}
    """Further fields of the event."""
    believed: int | None = None
    """Until when its caller is believed that runs it, ms; None: it is not run by its caller."""

    def row(self, keeps: int) -> list[Any]:
        """As the scripts take it, see ``include/routine_rows.lua``.

        Args:
            keeps: how long a routine that has ended is remembered, ms.
        """
        before, after = self.before, self.after
        found = after or before
        assert found is not None
        was = "" if before is None else listed(before, keeps)[0]
        where, at = ("none", 0) if after is None else listed(after, keeps)
        return [
            found.id, "" if before is None else before.version, was,
            b"" if after is None else encode(after), where, at,
            "" if self.believed is None else self.believed, 0 if after is None else after.updated,
            "" if before is None else before.key, "" if after is None else after.key, self.event,
            self._data(found) if self.event else "",
        ]  # fmt: skip

    def _data(self, found: Record) -> str:
        """The JSON of the event, without its closing brace."""
        about = {"routine_id": found.id, "state": found.state, **self.facts}
        return "{" + ", ".join([f'"{name}": {text_of(value)}' for name, value in about.items()])


def listed(record: Record, keeps: int) -> tuple[str, int]:
    """The list of a routine, and its time there (ms); ``none`` for one whose pause has no end."""
    if record.is_terminal:
        return "over", record.updated + keeps
    if record.state == RUNNING:
        assert record.slot is not None
        return "running", record.slot
    if record.state == PAUSED:
        return ("none", 0) if record.paused_until is None else ("paused", record.paused_until)
    return ("none", 0) if record.next is None else ("due", record.next)


def rows_of(store: Store, changes: Sequence[Change]) -> list[Any]:
    """The arguments of a script for these changes."""
    keeps = store.limits.tombstone_ttl
    return [value for change in changes for value in change.row(keeps)]


def words_of(reply: Sequence[bytes]) -> list[str]:
    """The script's answer for each change."""
    return [word.decode() for word in reply]


def are_written(words: Sequence[str]) -> bool:
    """Whether the changes are in effect; else none of them is."""
    return all(word in (OK, DONE) for word in words)


def write(store: Store, changes: Sequence[Change], entry: str = "") -> list[str]:
    """Make changes, all or none; returns a word for each, see :func:`are_written`.

    Args:
        entry: taken off the list of what follows ends, in the same step.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    return words_of(script("write_routines")(store, entry=entry, count=len(changes), rows=rows_of(store, changes)))


def begin_rows(store: Store, count: int, rows: Sequence[Any]) -> Callable[[], list[str]]:
    """Begin to make changes, given as their rows; what is returned waits for the words, and raises as :func:`write`."""
    reply = script("write_routines").begin(store, entry="", count=count, rows=rows)
    return lambda: words_of(reply())


def read(store: Store, routine_id: str) -> tuple[Record | None, int]:
    """A routine, and the store's time (ms).

    Raises:
        StoreUnavailable: the store did not answer.
    """
    text, now = routine_and_time(store, routine_id)
    return None if text is None else decode(routine_id, text), now


def read_many(store: Store, ids: Sequence[str]) -> list[Record]:
    """The routines that there are among these, in their order.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    texts = routine_records(store, ids)
    return [decode(each, text) for each, text in zip(ids, texts, strict=True) if text is not None]


def read_readable(store: Store, ids: Sequence[str]) -> list[Record]:
    """As :func:`read_many`, without those of another release, which are reported and hold up no other.

    Raises:
        StoreUnavailable: the store did not answer.
    """
    texts = routine_records(store, ids)
    records = [readable(each, text) for each, text in zip(ids, texts, strict=True) if text is not None]
    return [each for each in records if each is not None]


def readable(routine_id: str, text: bytes) -> Record | None:
    """The record behind a text; None for one of another release, which is reported and holds up no other."""
    try:
        return decode(routine_id, text)
    except Exception as error:
        emit(events.ROUTINE_UNREADABLE, routine_id=routine_id, error=error)
        return None
