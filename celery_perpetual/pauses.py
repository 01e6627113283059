"""Pauses: durable, with who, why and until when."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

from celery_perpetual.store.connection import Store
from celery_perpetual.store.scripts import script
from celery_perpetual.times import format_time, parse_time, to_ms

EVERYTHING = "*"
#: A client repeats a call whose reply got lost for seconds at most.
RECEIPT_TTL_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Paused:
    """One pause."""

    scope: str
    """Name of a unit, or ``*`` for everything."""
    by: str
    reason: str
    at: datetime
    until: datetime | None = None
    """It ends by itself at this time."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        until = None if self.until is None else format_time(self.until)
        return {"scope": self.scope, "by": self.by, "reason": self.reason, "at": format_time(self.at), "until": until}

    def to_json(self) -> str:
        """As it is stored; scripts compare ``until_ms``."""
        unit = {} if self.scope == EVERYTHING else {"unit": self.scope}
        until = None if self.until is None else to_ms(self.until)
        return json.dumps({**self.to_dict(), **unit, "until_ms": until})


class Pauses:
    """The pauses of one namespace."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def now(self) -> dict[str, Paused]:
        """Every pause that holds now, by scope."""
        with self.store.errors("pauses"):
            stored = self.store.redis.hgetall(self.store.keys.paused)
        if not stored:
            return {}
        found = {scope.decode(): _parsed(scope.decode(), text) for scope, text in stored.items()}
        now = self.store.now()
        return {scope: pause for scope, pause in found.items() if pause.until is None or to_ms(pause.until) > now}

    def pause(self, paused: Paused) -> None:
        """Pause a scope; pausing again replaces reason and end."""
        script("pause")(self.store, scope=paused.scope, pause=paused.to_json())

    def resume(self, scope: str, about: str, poll_now: list[str]) -> bool:
        """End the pause of a scope, and poll these units at once; False if it was not paused."""
        receipt = self.store.keys.receipt(uuid4().hex)
        return bool(
            script("resume")(
                self.store, receipt=receipt, scope=scope, about=about, receipt_ttl=RECEIPT_TTL_MS, units=poll_now
            )
        )

    def trim(self) -> None:
        """Forget pauses that have ended by themselves."""
        script("trim_pauses")(self.store)


def _parsed(scope: str, text: bytes) -> Paused:
    found = json.loads(text)
    until = parse_time(found["until"]) if found.get("until") else None
    return Paused(scope=scope, by=found["by"], reason=found["reason"], at=parse_time(found["at"]), until=until)
