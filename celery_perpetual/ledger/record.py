"""One item as the ledger keeps it: enough to send it again.

``1 {length of key or -} {length of options}\n{key}{options}{body}``: a version, the item key, a JSON object of what
differs from the unit's task and its defaults, and ``(args, kwargs)`` in the task's serializer. Scripts read the key
without decoding anything, and so does a publisher that stamps out messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from kombu.utils.json import dumps as json_dumps
from kombu.utils.json import loads as json_loads

from celery_perpetual.ledger.item import CheckedItem
from celery_perpetual.ledger.serializers import loaded, plain_json
from celery_perpetual.tasks.task import ROUTINE_HEADER

VERSION = b"1"
_dumps = plain_json()
_quoted = json.encoder.encode_basestring_ascii


@dataclass(frozen=True, slots=True)
class Record:
    """A record, decoded."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Mapping[str, Any]
    key: str | None
    reprs: tuple[str, str] | None


def encode(item: CheckedItem, unit_task: str) -> bytes:
    """The record of one item of a unit whose task is ``unit_task``."""
    task, body, serializer, options, key, reprs, _, _, run = item
    if not options and reprs is None and run is None and task == unit_task and serializer == "json":
        if key is None:
            return b"1 - 0\n" + body
        raw = key.encode()
        return b"1 %d 0\n%b%b" % (len(raw), raw, body)
    text = _named("" if task == unit_task else task, serializer)
    if options or reprs is not None:
        more = {"options": options or None, "reprs": reprs}
        text = _joined(text, _dumps({name: value for name, value in more.items() if value is not None}))
    if run is not None:
        text = _joined(text, f'{{"run": {run_json(run)}}}'.encode())
    raw, length = (b"", b"-") if key is None else (key.encode(), b"%d" % len(key.encode()))
    return b"%b %b %d\n%b%b%b" % (VERSION, length, len(text), raw, text, body)


@lru_cache(256)
def _named(task: str, serializer: str) -> bytes:
    """The text of a task and a serializer where they differ, which is the same in many records."""
    named = {"task": task} if task else {}
    if serializer != "json":
        named["serializer"] = serializer
    return _dumps(named) if named else b""


def _joined(text: bytes, more: bytes) -> bytes:
    """The text of a JSON object, or "" for none, with the fields of another one."""
    return text[:-1] + b", " + more[1:] if text else more


def run_json(run: Mapping[str, Any]) -> str:
    """The header of a routine's run as Kombu writes it, in a third of the time."""
    return f'{{"id": {_quoted(run["id"])}, "slot": {_quoted(run["slot"])}, "attempt": {run["attempt"]}}}'


def read_item(record: bytes, unit_task: str) -> CheckedItem:
    """The item behind a record, its arguments still serialised.

    Raises:
        ValueError: the record has a version that this release does not know.
    """
    head, _, rest = record.partition(b"\n")
    version, key_length, options_length = head.split(b" ")
    if version != VERSION:
        raise ValueError(
            f"the ledger record has version {version!r}, and this release reads {VERSION!r}; run one release everywhere"
        )
    at = 0 if key_length == b"-" else int(key_length)
    end = at + int(options_length)
    key = None if key_length == b"-" else rest[:at].decode()
    if end == at:
        return CheckedItem(unit_task, rest[end:], "json", {}, key)
    differing = _differing(rest[at:end])
    return CheckedItem(
        task=unit_task if differing.task is None else differing.task,
        body=rest[end:],
        serializer=differing.serializer,
        options=json_loads(differing.options_json) if differing.options_json else {},
        key=key,
        kept_reprs=differing.reprs,
        reprs=differing.reprs,
        options_json=differing.options_json,
        run=differing.run,
    )


def task_of(record: bytes) -> str:
    """The task of a record that names it, without the rest."""
    head, _, rest = record.partition(b"\n")
    _, key_length, length = head.split(b" ")
    at = 0 if key_length == b"-" else int(key_length)
    return _differing(rest[at : at + int(length)]).task or ""


class Differing(NamedTuple):
    """The fields that differ from the unit's task and its defaults. Never changed: it is kept for the next record."""

    task: str | None
    serializer: str
    options_json: str
    reprs: tuple[str, str] | None
    run: Mapping[str, Any] | None


@lru_cache(256)
def _differing(text: bytes) -> Differing:
    """The text of the fields that differ, which is the same in many records."""
    found = json_loads(text)
    options = found.get("options")
    return Differing(
        task=found.get("task"),
        serializer=found.get("serializer", "json"),
        options_json=str(json_dumps(options)) if options else "",
        reprs=tuple(found.get("reprs") or ()) or None,
        run=found.get("run"),
    )


def opened(item: CheckedItem) -> Record:
    """An item with its arguments and options as values, the same whether it comes from the ledger or goes there."""
    args, kwargs = arguments(item.body, item.serializer)
    options = json_loads(item.options_json or json_dumps(item.options)) if item.options else {}
    if item.run is not None:
        options = {**options, "headers": {**(options.get("headers") or {}), ROUTINE_HEADER: item.run}}
    return Record(item.task, args, kwargs, options, item.key, item.kept_reprs)


def arguments(body: bytes, serializer: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments behind the body of a record, as the task will get them."""
    args, kwargs = loaded(body, serializer)
    return tuple(args), kwargs


def decode(record: bytes, unit_task: str) -> Record:
    """The item behind a record, decoded.

    Raises:
        ValueError: the record has a version that this release does not know.
    """
    return opened(read_item(record, unit_task))
