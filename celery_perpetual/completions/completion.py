"""The end of a task, as it is stored, announced and waited for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timezone
from math import isfinite
from typing import Any

from celery.exceptions import TaskRevokedError

from celery_perpetual.errors import NotSuccessful, TaskLost, encodable
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.ledger.ids import parse_item_id
from celery_perpetual.times import parse_time

SUCCESS, FAILURE, REVOKED, EXPIRED = "success", "failure", "revoked", "expired"
REJECTED, IGNORED, LOST, PENDING, UNKNOWN = "rejected", "ignored", "lost", "pending", "unknown"
NEEDS_ATTENTION = "needs_attention"

#: Version of the JSON; additions leave it.
VERSION = 1
#: A larger result is only referred to: ``AsyncResult(task_id)`` has it.
LONGEST_RESULT = 8 * 1024
LONGEST_MESSAGE = 2 * 1024


#: The function that ``json.loads`` calls in the end; the rest of it skips white space, which records do not have.
_scan: Any = json.scanner.make_scanner(json.JSONDecoder())  # type: ignore[attr-defined]
_strict = json.JSONEncoder(allow_nan=False).encode
#: JSON of the results that most tasks have, without an encoder that is made for each.
_plain: dict[type, Callable[[Any], str]] = {
    type(None): lambda _: "null", bool: lambda value: "true" if value else "false", int: int.__repr__,
    float: lambda value: repr(value) if isfinite(value) else "null", str: json.encoder.encode_basestring_ascii,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Completion(JsonFields):
    """How a task ended, or that it has not."""

    task_id: str
    task: str | None = None
    status: str
    """``success, failure, revoked, expired, rejected, ignored, lost``; without an end ``pending`` or ``unknown``, or
    ``needs_attention`` where it is parked."""
    final: bool = True
    result: Any = None
    """The result, if it is JSON of at most 8 KiB; otherwise Celery's result backend has it."""
    error: dict[str, str] | None = None
    """``type`` and ``message`` of what the task raised."""
    finished_at: datetime | None = None
    """The store's time of the end."""
    runtime: float | None = None
    """Seconds, where the task ran."""
    worker: str | None = None
    attempt: int = 1
    recoveries: int = 0
    tenant: Any = None
    poll_id: str | None = None
    key: str | None = None
    arguments: list[Any] | None = None
    """Of an item: the list of its positional and the dict of its keyword arguments, if they are JSON of at most 256
    characters and the task does not keep them out of listings (``store_args=False``)."""
    meta: dict[str, Any] = field(default_factory=dict)
    """The values that the task gave to ``annotate``."""
    timed_out: bool = False
    """The wait ended before the task."""

    @property
    def ok(self) -> bool:
        """Whether the task succeeded."""
        return self.status == SUCCESS

    def raise_for_status(self) -> None:
        """Raise unless the task succeeded.

        Raises:
            TaskLost: the task was lost.
            NotSuccessful: any other end, or none in time.
        """
        if self.ok:
            return
        words = {PENDING: "has not ended", UNKNOWN: "is not known", NEEDS_ATTENTION: "is parked and needs attention"}
        what = words.get(self.status, f"ended as {self.status}")
        what += " in time" if self.timed_out else ""
        detail = f": {self.error['type']}: {self.error['message']}" if self.error else ""
        kind = TaskLost if self.status == LOST else NotSuccessful
        raise kind(f"task {self.task_id} {what}{detail}", self)

    def late(self) -> Completion:
        """The same for a waiter whose time is over."""
        return replace(self, timed_out=True)


_NAMES = {each.name for each in fields(Completion)}
_RECORDED = _NAMES - {"timed_out"} | {"v"}


def from_json(record: bytes | str) -> Completion:
    """A completion from its record; fields of a newer release are passed over."""
    text = record if isinstance(record, str) else record.decode()  # json would guess the encoding first
    try:
        values, _ = _scan(text, 0)
    except StopIteration:
        raise ValueError(f"not JSON: {text[:40]!r}") from None
    if values.get("finished_at"):
        values["finished_at"] = parse_time(values["finished_at"])
    if values.keys() != _RECORDED:  # an older or a newer release's
        return Completion(**{name: value for name, value in values.items() if name in _NAMES})
    del values["v"]
    # The constructor of a frozen class takes longer than all before this, and every waiter waits for it.
    completion = object.__new__(Completion)
    completion.__dict__.update(values)
    return completion


def from_celery(task_id: str, meta: Any) -> Completion | None:
    """A completion from what Celery's result backend knows, or None if the task has not ended there."""
    status = {"SUCCESS": SUCCESS, "FAILURE": FAILURE, "REVOKED": REVOKED}.get(meta.get("status"))
    if status is None:
        return None
    result, at = meta.get("result"), meta.get("date_done")
    if isinstance(result, TaskLost):  # stored by this package
        status = LOST
    elif isinstance(result, TaskRevokedError) and result.args == ("expired",):
        status = EXPIRED
    if isinstance(at, str):
        at = parse_time(at)
    if isinstance(at, datetime) and at.tzinfo is None:
        at = at.replace(tzinfo=timezone.utc)
    where = parse_item_id(task_id)
    return Completion(
        task_id=task_id, task=meta.get("name"), status=status, finished_at=at, worker=meta.get("worker"),
        error=error_of(result) if status in (FAILURE, LOST) else None,
        result=result if status == SUCCESS and inline(result) != "null" else None,
        poll_id=None if where is None else where.poll_id,
    )  # fmt: skip


def inline(result: Any) -> str:
    """The result as JSON, or ``null`` where it is none or too long."""
    write = _plain.get(type(result))
    try:
        text = write(result) if write is not None else "null" if _is_long(result) else _strict(result)
    except (TypeError, ValueError, RecursionError):
        return "null"
    return text if len(text) <= LONGEST_RESULT else "null"


def _is_long(result: Any) -> bool:
    """Whether the JSON of a container is surely too long, found without writing all of it."""
    left, found = LONGEST_RESULT, [result]
    while found and left >= 0:
        each = found.pop()
        if isinstance(each, str):
            left -= len(each)
        elif isinstance(each, dict | list | tuple):
            left -= len(each)
            if left >= 0:
                found += each.values() if isinstance(each, dict) else each
        else:
            left -= 1
    return left < 0


def error_of(exception: Any) -> dict[str, str] | None:
    """Type and message of an exception."""
    if exception is None:
        return None
    try:
        message = str(exception)
    except Exception as error:  # raised by the exception's own __str__
        message = f"({type(error).__name__} in its __str__)"
    return {"type": type(exception).__name__, "message": encodable(message[:LONGEST_MESSAGE])}
