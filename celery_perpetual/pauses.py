"""Pauses: durable, with their scope, who made them, why, and until when."""

from __future__ import annotations

import getpass
import json
import os
import socket
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any
from uuid import uuid4

from celery_perpetual.errors import encodable
from celery_perpetual.json_fields import JsonFields
from celery_perpetual.store.commands.pauses import stored_pauses
from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.tasks.names import parse_unit_name, unit_name
from celery_perpetual.times import format_time, parse_time, to_datetime, to_ms, to_ms_floor

#: The last millisecond that a datetime has, where a pause may end; ``pause_holds.lua`` has it too.
LAST_MS = 253_402_300_799_999

#: A client repeats a call whose reply got lost for seconds at most.
RECEIPT_TTL_MS = 60_000


#: The keys of other scopes begin with these; the name of a unit never does.
TENANT, QUEUE, ROUTINE = "tenant:", "queue:", "routine:"
_PREFIXES = {"tenant": TENANT, "queue": QUEUE, "routine": ROUTINE}


@dataclass(frozen=True, slots=True)
class Scope:
    """The scope of a pause."""

    kind: str
    """``everything``, ``queue``, ``tenant`` (of all tasks), ``routine`` (``*`` for all), or ``unit``: of a task with
    tenants also all together."""
    name: str = ""

    @property
    def key(self) -> str:
        """As stored: ``*``, ``queue:{name}``, ``tenant:{name}``, ``routine:{id}``, or the name of a unit."""
        return "*" if self.kind == "everything" else _PREFIXES.get(self.kind, "") + self.name

    @classmethod
    def of(cls, key: str) -> Scope:
        """The scope of a key; the inverse of :attr:`key`."""
        if key == "*":
            return EVERYTHING
        for kind, prefix in _PREFIXES.items():
            if key.startswith(prefix):
                return cls(kind, key.removeprefix(prefix))
        return cls("unit", key)

    @property
    def about(self) -> dict[str, str]:
        """Its fields in events, beside the key."""
        return {} if self.kind == "everything" else {self.kind: self.name}


EVERYTHING = Scope("everything")
ALL_ROUTINES = Scope("routine", "*")


def operator() -> str:
    """The user and the host of this process, for people; never an error."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container may run under a user id that no user has
        user = f"uid {os.getuid()}" if hasattr(os, "getuid") else "unknown"
    return encodable(f"{user}@{socket.gethostname()}")


@lru_cache(20_000)
def scopes_of(unit: str, queue: str = "") -> tuple[Scope, ...]:
    """Every scope whose pause stops the polls of a unit, the widest first.

    Args:
        unit: its name.
        queue: of its task; "" where it is not known, and where no queue is paused.
    """
    task, tenant = parse_unit_name(unit)
    wide = (EVERYTHING, Scope("queue", queue)) if queue else (EVERYTHING,)
    if tenant is None:
        return (*wide, Scope("unit", unit))
    return (*wide, Scope("tenant", tenant), Scope("unit", unit_name(task)), Scope("unit", unit))


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused(JsonFields):
    """One pause."""

    scope: Scope
    by: str
    reason: str
    at: datetime
    until: datetime | None = None
    """It ends by itself at this time."""
    replaced: Paused | None = None
    """Of the answer to a pause: the one of the same scope that it has replaced."""

    def is_open_at(self, at: datetime) -> bool:
        """Whether it has not ended by itself at a time."""
        return self.until is None or self.until > at

    @property
    def text(self) -> str:
        """Reason, who, since when and until when, in one line."""
        return f"{self.reason} (by {self.by} since {format_time(self.at)}, {self._until_text})"

    @property
    def text_without_since(self) -> str:
        """The same where the time of its begin stands elsewhere."""
        return f"{self.reason} (by {self.by}, {self._until_text})"

    @property
    def _until_text(self) -> str:
        return "until it is resumed" if self.until is None else f"until {format_time(self.until)}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {**self._facts(), "replaced": None if self.replaced is None else self.replaced._facts()}  # noqa: SLF001  # one class

    def to_json(self) -> str:
        """As it is stored; scripts compare ``until_ms``."""
        until = None if self.until is None else to_ms_floor(self.until)
        return json.dumps({**self._facts(), **self.scope.about, "until_ms": until})

    def _facts(self) -> dict[str, Any]:
        until = None if self.until is None else format_time(self.until)
        return {
            "scope": self.scope.key, "by": self.by, "reason": self.reason, "at": format_time(self.at), "until": until,
        }  # fmt: skip


class Pauses:
    """The pauses of one namespace."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def now(self) -> dict[Scope, Paused]:
        """Every pause that holds now, by scope."""
        stored = stored_pauses(self.store)
        if not stored:
            return {}
        found = [_parsed(Scope.of(key), text) for key, text in stored.items()]
        now = self.store.now()
        return {pause.scope: pause for pause in found if pause.until is None or to_ms(pause.until) > now}

    def pause(self, paused: Paused) -> Paused:
        """Pause a scope; pausing again replaces reason and end. Returns it with the one that it has replaced."""
        text = script("pause")(
            self.store, receipt=self.store.keys.receipt(uuid4().hex), scope=paused.scope.key, pause=paused.to_json(),
            receipt_ttl=RECEIPT_TTL_MS,
        )  # fmt: skip
        before = _parsed(paused.scope, text) if text else None
        return replace(paused, replaced=before if before is not None and before.is_open_at(paused.at) else None)

    def resume(self, scope: Scope, at: datetime, poll_now: list[str], *, by: str, reason: str) -> bool:
        """End the pause of a scope, and poll these units at once; False if it was not paused."""
        about = {
            "scope": scope.key, "unit": None, **scope.about, "by": by, "reason": reason, "at": format_time(at),
        }  # fmt: skip
        return bool(
            script("resume")(
                self.store, receipt=self.store.keys.receipt(uuid4().hex), scope=scope.key, about=json.dumps(about),
                receipt_ttl=RECEIPT_TTL_MS, units=poll_now,
            )
        )  # fmt: skip

    def trim(self) -> None:
        """Forget pauses that have ended by themselves."""
        script("trim_pauses")(self.store)


def _parsed(scope: Scope, text: bytes) -> Paused:
    """A pause as it is stored. One that was written by hand holds too, whatever of it cannot be read."""
    try:
        found: Any = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        found = {"reason": f"a pause that cannot be read: {text.decode(errors='replace')[:80]}"}
    return Paused(
        scope=scope, by=str(found.get("by", "unknown")), reason=str(found.get("reason", "no reason given")),
        at=_time(found.get("at")) or to_datetime(0),
        until=_end(found.get("until_ms")),
    )  # fmt: skip


def _end(until_ms: object) -> datetime | None:
    """The end that scripts go by; what is no time of a datetime is no end, also for them."""
    if isinstance(until_ms, bool) or not isinstance(until_ms, int | float) or not 0 <= until_ms <= LAST_MS:
        return None
    return to_datetime(float(until_ms))


def _time(text: object) -> datetime | None:
    try:
        found = parse_time(str(text))
        return found.astimezone(timezone.utc) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
