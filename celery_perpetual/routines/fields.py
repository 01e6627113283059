"""The fields with which a user creates or changes a routine: checked before anything is stored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta, timezone
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from kombu.utils.json import dumps as json_dumps

from celery_perpetual.errors import InvalidItem, InvalidRoutine, described
from celery_perpetual.hints import hint
from celery_perpetual.ledger.digests import Digests
from celery_perpetual.ledger.item import HIDDEN, CheckedItem, ItemReader
from celery_perpetual.ledger.record import arguments, encode, read_item
from celery_perpetual.ledger.serializers import keeps_types
from celery_perpetual.routines.asking import asked
from celery_perpetual.routines.checks import a_time, a_truth, refusal
from celery_perpetual.routines.record import ACTIVE, NO_RETRIES, PAUSED, Record
from celery_perpetual.routines.slots import Timetable
from celery_perpetual.routines.steps import scheduled
from celery_perpetual.routines.timetables import FIELDS as OF_TIMETABLE
from celery_perpetual.routines.timetables import NEW_SLOTS, changed, timetable
from celery_perpetual.tasks.retries import Retries
from celery_perpetual.times import parse_time

if TYPE_CHECKING:
    from celery import Celery

OF_ITEM = ("task", "args", "kwargs", "options")
OF_UPDATE = (*OF_ITEM, *OF_TIMETABLE, "retries", "idempotency_key", "metadata", "paused", "next_run_at")
OF_CREATE = ("id", *OF_UPDATE)
_TIMETABLE, _CREATE, _UPDATE = frozenset(OF_TIMETABLE), frozenset(OF_CREATE), frozenset(OF_UPDATE)

LONGEST_NAME = 255

#: Options that a run gets from the routine itself.
_REFUSED_OPTIONS = {"countdown": "at= or start_at=", "eta": "at= or start_at="}


class Reader:
    """Checks fields. For one thread and one call: it remembers tasks that it has looked up."""

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._items = ItemReader(app, None)
        self._digests = Digests()
        self._hides: dict[str, bool] = {}

    def new(self, given: Mapping[str, Any], now: int) -> Record:
        """The record of a new routine.

        Raises:
            InvalidRoutine: a field is unknown or missing, or its value is impossible.
        """
        _must_be_known(given, _CREATE, OF_CREATE)
        if given.get("task") is None:
            raise InvalidRoutine("routine must have a task: the task, or its name", "task", None)
        table = timetable(**{name: value for name, value in given.items() if name in _TIMETABLE}, app=self._app)
        item = self._item(given)
        key = _name("idempotency_key", given.get("idempotency_key")) or ""
        routine_id = _name("id", given.get("id")) or f"routine_{token_hex(8)}"
        made = Record(
            id=routine_id, item=item, timetable=table, created=now,
            updated=now, state=PAUSED if a_truth("paused", given.get("paused", False)) else ACTIVE,
            retries=_retries(given.get("retries")), key=key, metadata=_metadata(given.get("metadata")),
            **self._first(table, routine_id, given, now),
        )  # fmt: skip
        return made._replace(digest=self._digest(made, given)) if key else made

    def patched(self, record: Record, patch: Mapping[str, Any], now: int) -> Record:
        """The next version of a record.

        Raises:
            InvalidRoutine: a field is unknown, or its value is impossible.
        """
        _must_be_known(patch, _UPDATE, OF_UPDATE)
        changes: dict[str, Any] = {}
        if any(name in patch for name in OF_ITEM):
            before = _stored(read_item(record.item, ""), patch)
            changes["item"] = self._item({**before, **{name: patch[name] for name in OF_ITEM if name in patch}})
        if "retries" in patch:
            changes["retries"] = _retries(patch["retries"])
        if "metadata" in patch:
            changes["metadata"] = _metadata(patch["metadata"])
        if "idempotency_key" in patch:
            changes["key"] = _name("idempotency_key", patch["idempotency_key"]) or ""
        if "paused" in patch:
            changes["state"] = PAUSED if a_truth("paused", patch["paused"]) else ACTIVE
            changes["pause"] = None
        of_timetable = {name: patch[name] for name in OF_TIMETABLE if name in patch}
        if of_timetable:
            changes["timetable"] = changed(record.timetable, of_timetable, self._app)
        after = record.changed(now, **changes)
        if "next_run_at" in patch or NEW_SLOTS & patch.keys():
            after = after._replace(**self._first(after.timetable, after.id, patch, now))
        elif of_timetable and after.next is not None:
            slot = record.due_slot
            end = after.timetable.end
            after = after._replace(
                **scheduled(after.timetable, after.id, None if end is not None and slot > end else slot)
            )
        elif after.state == ACTIVE and record.state == PAUSED and after.next is None:
            after = after._replace(**self._first(after.timetable, after.id, patch, now))
        return after

    def _first(self, table: Timetable, routine_id: str, given: Mapping[str, Any], now: int) -> dict[str, Any]:
        """When it runs first: as the caller says, or at the first slot."""
        if "next_run_at" in given:
            at = given["next_run_at"]
            return {"next": None if at is None else a_time("next_run_at", at), "slot": None}
        slot = asked(table, lambda: table.first_ms(now))
        if slot is None:
            message = f"routine has no slot: end_at is before its first one, got {table}"
            raise InvalidRoutine(message, "end_at", given.get("end_at"))
        return scheduled(table, routine_id, slot)

    def _item(self, given: Mapping[str, Any]) -> bytes:
        args, kwargs = given.get("args"), given.get("kwargs")
        options, expires = _options(given.get("options") or {})
        try:
            item = self._items.without_key(
                given["task"], () if args is None else args, {} if kwargs is None else kwargs, options
            )
        except InvalidItem as error:
            field = _field_of(str(error), bool(kwargs))
            raise InvalidRoutine(f"routine field {field}: {error}", field, given.get(field)) from None
        if expires is not None:
            kept = {**item.options, "expires": expires}
            item = item._replace(options=kept, options_json=str(json_dumps(kept)))
        return encode(self._hidden(item), "")

    def _hidden(self, item: CheckedItem) -> CheckedItem:
        hides = self._hides.get(item.task)
        if hides is None:
            options = getattr(self._app.tasks.get(item.task), "perpetual_options", None)
            hides = self._hides[item.task] = not getattr(options, "store_args", True)
        return item._replace(kept_reprs=HIDDEN, reprs=HIDDEN) if hides else item

    def _digest(self, record: Record, given: Mapping[str, Any]) -> str:
        """Of what the fields mean, however they are written: a call that means the same gets the same routine."""
        item = read_item(record.item, "")
        args, kwargs = arguments(item.body, item.serializer)
        values = {
            "args": list(args), "kwargs": kwargs, "serializer": item.serializer,
            "options": _without_serializer(item.options),
            "timetable": record.timetable.to_json(), "metadata": record.metadata, "state": record.state,
            "retries": record.retries.values,
            "next": record.next if "next_run_at" in given else "",
        }  # fmt: skip
        try:
            return self._digests.of_values(item.task, (), values, keeps_types=keeps_types(item.serializer))[:16]
        except Exception as error:  # whatever a value's own methods raise
            message = f"routine arguments have no digest: {described(error)}"
            raise InvalidRoutine(message, "idempotency_key", record.key) from None


def _stored(item: CheckedItem, patch: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an item as they are; its arguments are not read where both are given anew."""
    before = {"task": item.task, "options": item.options}
    if "args" in patch and "kwargs" in patch:
        return before
    try:
        args, kwargs = arguments(item.body, item.serializer)
    except Exception as error:  # of a serializer, or of a class that only other processes have
        message = f"routine arguments cannot be read in this process, give both args and kwargs: {described(error)}"
        raise InvalidRoutine(message, "args", patch.get("args")) from error
    return {**before, "args": args, "kwargs": kwargs}


def _without_serializer(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options but the serializer, which the item has also where no option says so."""
    return {name: value for name, value in options.items() if name != "serializer"}


def _must_be_known(given: Mapping[str, Any], known: frozenset[str], in_order: tuple[str, ...]) -> None:
    if given.keys() <= known:
        return
    name = next(each for each in given if each not in known)
    raise InvalidRoutine(f"routine field {name} is unknown{hint(name, in_order)}", str(name), given[name])


def _field_of(problem: str, has_kwargs: bool) -> str:
    """The field that a refused item is about."""
    for field, words in (("options", ("option ", "compression ", "serializer ")), ("task", ("task must",))):
        if problem.startswith(words):
            return field
    return "kwargs" if has_kwargs and not problem.startswith("args") else "args"


def _options(seen: Any) -> tuple[Mapping[str, Any], Any]:
    """The options of the runs, and when they expire, which counts from the start of each."""
    if not seen:
        return seen, None
    if not isinstance(seen, Mapping):
        raise refusal("options", seen, "a dict of apply_async options")
    for name, instead in _REFUSED_OPTIONS.items():
        if seen.get(name) is not None:
            raise refusal("options", seen, f"without {name}; say {instead} of the routine")
    return {name: value for name, value in seen.items() if name != "expires"}, _expires(seen)


def _expires(options: Mapping[str, Any]) -> Any:
    """Seconds from the start of each run, or a time."""
    seen = options.get("expires")
    if isinstance(seen, timedelta):
        seen = seen.total_seconds()
    if isinstance(seen, str):  # as it is stored
        with suppress(ValueError):
            seen = parse_time(seen)
    if isinstance(seen, datetime) and seen.utcoffset() is not None:
        return seen.astimezone(timezone.utc).isoformat()
    if seen is None:
        return None
    if isinstance(seen, bool) or not isinstance(seen, int | float) or not 0 < seen < 1e10:
        raise refusal("options", options, "such that expires is seconds from the start of a run, or an aware datetime")
    return int(seen) if int(seen) == seen else seen


def _name(field: str, seen: Any) -> str | None:
    if seen is None:
        return None
    try:
        if isinstance(seen, str) and 0 < len(seen.encode()) <= LONGEST_NAME:
            return seen
    except UnicodeEncodeError:
        pass  # the same refusal
    raise refusal(field, seen, f"text of 1 to {LONGEST_NAME} bytes")


def _retries(seen: Any) -> Retries:
    if seen is None:
        return NO_RETRIES
    if not isinstance(seen, Retries):
        raise refusal("retries", seen, "Retries(max_attempts=…, backoff=…)")
    return seen.with_usual(NO_RETRIES)


def _metadata(seen: Any) -> Mapping[str, Any]:
    if seen is None:
        return {}
    allowed = "a dict of JSON values with text as keys"
    if not isinstance(seen, Mapping) or not all(isinstance(name, str) for name in seen):
        raise refusal("metadata", seen, allowed)
    try:
        found: dict[str, Any] = json.loads(json.dumps(dict(seen), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise refusal("metadata", seen, f"{allowed} ({error})") from None
    return found
