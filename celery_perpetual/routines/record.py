"""The record of a routine, as the store keeps it: one short text.

``1 {version} {n} {timetable}{JSON}\\n{item}``:

* ``1`` is the version of this form, ``version`` that of the routine;
* ``timetable`` is the JSON of its timetable, ``n`` the length of that;
* ``JSON`` has its other fields, where they differ from the usual;
* ``item`` is the task with its arguments, as the ledger keeps an item.

Scripts read the version of the routine and nothing else. Many routines have the same timetable, so it is read once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from operator import attrgetter
from secrets import token_hex
from typing import Any, NamedTuple

from celery_perpetual.routines.slots import Timetable
from celery_perpetual.routines.texts import text_of
from celery_perpetual.tasks.retries import Retries

ACTIVE, PAUSED, RUNNING, RETRY_WAITING = "active", "paused", "running", "retry_waiting"
COMPLETED, EXHAUSTED, CANCELLED = "completed", "exhausted", "cancelled"

STATES = (ACTIVE, PAUSED, RUNNING, RETRY_WAITING, COMPLETED, EXHAUSTED, CANCELLED)
BUSY = frozenset({RUNNING, RETRY_WAITING})
TERMINAL = frozenset({COMPLETED, EXHAUSTED, CANCELLED})

#: Of a routine that says nothing: one attempt.
NO_RETRIES = Retries(max_attempts=1, backoff=0, multiplier=1, max_backoff=None, jitter=False)

#: The cause of a run: the routine's times, or a call by hand.
SCHEDULED, BY_HAND = "routine", "routine-by-hand"

_FORM = "1"
_LETTERS = dict(zip(STATES, "aprwcex", strict=True))
_WORDS = {letter: state for state, letter in _LETTERS.items()}


class Record(NamedTuple):
    """A routine; times are milliseconds of the store's clock."""

    id: str
    item: bytes
    """Task, arguments and options, as the ledger keeps an item."""
    timetable: Timetable
    created: int
    updated: int
    version: int = 1
    state: str = ACTIVE
    retries: Retries = NO_RETRIES
    key: str = ""
    """The idempotency key."""
    digest: str = ""
    """Of the fields with which it was created, where it has an idempotency key."""
    metadata: Mapping[str, Any] = {}
    pause: Mapping[str, Any] | None = None
    """Of a paused one ``by``, ``reason``, ``at`` and ``until`` (ms), as far as its pause has them."""
    next: int | None = None
    """When it runs next."""
    slot: int | None = None
    """The slot of that run where it is another time, or of the run that is under way, or is to be tried again."""
    run: str = ""
    """Task id of the run that is under way."""
    attempts: int = 0
    recoveries: int = 0
    """How often a run of this slot was lost."""
    runs: int = 0
    """Slots that have been run."""
    dropped: int = 0
    """Slots that were missed and given up."""
    last_run: str = ""
    last_at: int | None = None
    result: str = ""
    """JSON of the last result, "" for none."""
    error: Mapping[str, str] | None = None
    cancelled: int | None = None
    completed: int | None = None

    @property
    def is_terminal(self) -> bool:
        return self.state in TERMINAL

    @property
    def paused_until(self) -> int | None:
        """When its pause ends by itself."""
        return self.pause.get("until") if self.pause is not None and self.state == PAUSED else None

    @property
    def due_slot(self) -> int:
        """The slot of the run that is due."""
        slot = self.slot if self.slot is not None else self.next
        assert slot is not None
        return slot

    def changed(self, now: int, **changes: Any) -> Record:
        """The next version."""
        return self._replace(version=self.version + 1, updated=max(now, self.updated), **changes)


#: Name in JSON, field, and the value that is left out.
_PLAIN: tuple[tuple[str, str, Any], ...] = (
    ("l", "slot", None), ("r", "run", ""), ("a", "attempts", 0),
    ("o", "recoveries", 0), ("k", "runs", 0), ("g", "dropped", 0), ("i", "key", ""), ("d", "digest", ""),
    ("lr", "last_run", ""), ("la", "last_at", None), ("e", "error", None), ("x", "cancelled", None),
    ("z", "completed", None), ("m", "metadata", {}), ("v", "result", ""), ("p", "pause", None),
)  # fmt: skip


_loads = json.JSONDecoder().decode
_values = attrgetter(*(attribute for _, attribute, _ in _PLAIN))
_USUAL = tuple(usual for _, _, usual in _PLAIN)


def encode(record: Record) -> bytes:
    """The text of a record. A new one has a mark, which nothing reads.

    The store takes a text that it has already for a call that is sent twice, and two calls may create the same within a
    millisecond.
    """
    texts = [f'"s":"{_LETTERS[record.state]}","c":{record.created}']
    if record.version == 1:
        texts.append(f'"t":"{token_hex(4)}"')
    if record.next is not None:
        texts.append(f'"n":{record.next}')
    values = _values(record)
    if values != _USUAL:
        for (name, _, usual), value in zip(_PLAIN, values, strict=True):
            if value != usual:
                texts.append(f'"{name}":{text_of(value)}')
    if record.updated != record.created:
        texts.append(f'"u":{record.updated}')
    if record.retries is not NO_RETRIES and record.retries != NO_RETRIES:
        texts.append(f'"y":{text_of(record.retries.values)}')
    table = record.timetable.to_json()
    text = f"{_FORM} {record.version} {len(table)} {table}{{{','.join(texts)}}}\n"
    return text.encode() + record.item


def decode(routine_id: str, text: bytes) -> Record:
    """The record behind a text.

    Raises:
        ValueError: the text is of a form that this release does not know.
    """
    head, _, item = text.partition(b"\n")
    form, _, rest = head.partition(b" ")
    if form != _FORM.encode():
        raise ValueError(
            f"the record of routine {routine_id} has form {form!r}, and this release reads {_FORM}; run one release "
            "everywhere"
        )
    version, length, body = rest.split(b" ", 2)
    table, facts = body[: int(length)], _loads(body[int(length) :].decode())
    values = {attribute: facts[name] for name, attribute, _ in _PLAIN if name in facts}
    values["next"] = facts.get("n")
    values["updated"] = facts.get("u", facts["c"])
    if "y" in facts:
        values["retries"] = _retries(*facts["y"])
    return Record(
        id=routine_id, version=int(version), item=item, timetable=_timetable(table), state=_WORDS[facts["s"]],
        created=facts["c"], **values,
    )  # fmt: skip


@lru_cache(1024)
def _retries(most: Any, backoff: Any, multiplier: Any, longest: Any, jitter: Any) -> Retries:
    return Retries(most, backoff, multiplier, longest, bool(jitter))  # records of earlier versions have 0 or 1


@lru_cache(1024)
def _timetable(text: bytes) -> Timetable:
    return Timetable.from_json(text)
