"""One item as the ledger keeps it: enough to send it again.

``1 {length of key or -} {length of options}\\n{key}{options}{body}``: a version, the item key, a JSON object of what
differs from the unit's task and its defaults, and ``(args, kwargs)`` in the task's serializer. Scripts read the key
without decoding anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kombu import serialization
from kombu.serialization import loads
from kombu.utils.json import dumps as json_dumps
from kombu.utils.json import loads as json_loads

from celery_perpetual.tasks.work import Work

VERSION = b"1"


@dataclass(frozen=True, slots=True)
class Record:
    """A record, decoded."""

    task: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    options: Mapping[str, Any]
    key: str | None
    reprs: tuple[str, str] | None


def encode(work: Work, unit_task: str) -> bytes:
    """The record of one item of a unit whose task is ``unit_task``."""
    differing: dict[str, Any] = {}
    if work.task != unit_task:
        differing["task"] = work.task
    if work.serializer != "json":
        differing["serializer"] = work.serializer
    if work.options:
        differing["options"] = work.options
    if work.reprs is not None:
        differing["reprs"] = work.reprs
    options = json_dumps(differing).encode() if differing else b""
    key = b"" if work.key is None else work.key.encode()
    length = b"-" if work.key is None else b"%d" % len(key)
    return b"%b %b %d\n%b%b%b" % (VERSION, length, len(options), key, options, work.body)


def decode(record: bytes, unit_task: str) -> Record:
    """The item behind a record.

    Raises:
        ValueError: the record has a version that this release does not know.
    """
    head, _, rest = record.partition(b"\n")
    version, key_length, options_length = head.split(b" ")
    if version != VERSION:
        raise ValueError(f"ledger record of version {version!r}; this release reads {VERSION!r}")
    at = 0 if key_length == b"-" else int(key_length)
    end = at + int(options_length)
    key = None if key_length == b"-" else rest[:at].decode()
    differing = json_loads(rest[at:end]) if end > at else {}
    args, kwargs = _loaded(rest[end:], differing.get("serializer", "json"))
    reprs = differing.get("reprs")
    return Record(
        task=differing.get("task", unit_task),
        args=tuple(args),
        kwargs=kwargs,
        options=differing.get("options", {}),
        key=key,
        reprs=tuple(reprs) if reprs else None,
    )


def _loaded(body: bytes, serializer: str) -> tuple[Any, Any]:
    content_type, encoding = _codec(serializer)
    args, kwargs = loads(body, content_type, encoding, accept=[content_type])
    return args, kwargs


def _codec(serializer: str) -> tuple[str, str]:
    registry: Any = serialization.registry  # type: ignore[attr-defined]  # kombu's stubs leave it out
    encoder = registry._encoders[registry.type_to_name.get(serializer, serializer)]  # noqa: SLF001  # no public way
    return encoder.content_type, encoder.content_encoding
