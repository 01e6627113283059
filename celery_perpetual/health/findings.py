"""Findings: the answers of a check."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from celery_perpetual.json_fields import JsonFields

WARNING, ERROR = "warning", "error"

#: The areas of findings.
SETUP, STORE, BEAT, UNITS, WORK, WORKERS = "setup", "store", "beat", "units", "work", "workers"

#: Findings of one kind that are named one by one.
MOST_NAMED = 5
#: Words for the findings that are not named, and the command that lists them.
REST = {
    "paused": ("more scopes are paused", "celery -A proj perpetual units --state paused"),
    "unit_failing": ("more units are failing", "celery -A proj perpetual units --state backing_off"),
    "unit_silent": ("more units are silent", "celery -A proj perpetual units"),
    "poll_budget": ("more units are slow", "celery -A proj perpetual top --sort budget"),
    "unit_orphaned": ("more units are orphaned", "celery -A proj perpetual units --state orphaned"),
    "poll_hanging": ("more units are not evaluated", "celery -A proj perpetual units"),
    "preflight_failed": ("more units are not evaluated", "celery -A proj perpetual units"),
    "keys_parked": ("more units leave keys out", "celery -A proj perpetual units"),
    "worker_late": ("more workers are late", "celery -A proj perpetual workers"),
    "worker_clock": (
        "more workers have another time than the store",
        "synchronise the clocks of their machines: timedatectl status",
    ),
    "worker_lost": ("more workers are gone", "celery -A proj perpetual workers"),
}
#: The fields that identify a finding, beside its kind.
IDENTITY = ("unit", "worker", "queue", "scope", "beat", "seam")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding(JsonFields):
    """One thing that is not as it should be."""

    kind: str
    """A name for programs, such as ``no_leader``."""
    area: str
    """``setup``, ``store``, ``beat``, ``units``, ``work`` or ``workers``."""
    level: str
    """``warning`` or ``error``."""
    evidence: str
    """The facts that were seen."""
    meaning: str
    """The consequence."""
    help: str
    """The command that helps, or what to do."""
    since: datetime | None = None
    """Since when it is so, as far as that is known."""
    stops: bool = False
    """Nothing is polled, or no state is kept, until it is mended."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """Its object: ``unit``, ``task``, ``worker``, ``queue`` …"""

    @property
    def id(self) -> str:
        """The same for the same trouble of the same thing."""
        return " ".join([self.kind, *(str(self.about[name]) for name in IDENTITY if name in self.about)])


def named(found: Sequence[Finding]) -> list[Finding]:
    """The first findings of a kind, and one for the rest."""
    if len(found) <= MOST_NAMED:
        return list(found)
    first, count = found[0], len(found) - MOST_NAMED
    more, advice = REST.get(first.kind, (f"more findings of the kind {first.kind}", first.help))
    rest = Finding(
        kind=first.kind, area=first.area, level=first.level, evidence=f"{count} {more}", meaning=first.meaning,
        help=advice, about={"more": count},
    )  # fmt: skip
    return [*found[:MOST_NAMED], rest]


def dated(findings: Iterable[Finding], since: Mapping[str, datetime]) -> list[Finding]:
    """The same findings; those that do not say since when get the time of their alert, by their id."""
    return [
        finding if finding.since is not None else replace(finding, since=since.get(finding.id)) for finding in findings
    ]


def level_of(findings: Iterable[Finding]) -> int:
    """Exit code of a check: 0 without findings, 1 with warnings, 2 with errors."""
    levels = {finding.level for finding in findings}
    return 2 if ERROR in levels else 1 if levels else 0
