"""Units and parts of the whole, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celery_perpetual.cli.times import duration, localized, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery_perpetual.operations.status import Area
    from celery_perpetual.operations.units import Unit
    from celery_perpetual.polling.outcome import PollOutcome

HEADS = (
    "TASK", "TENANT", "STATE", "IN FLIGHT", "BACKLOG", "PER MIN", "15 MIN", "LAG", "SOURCE", "WAIT", "BUDGET",
    "HELD BACK", "NEXT POLL", "LAST POLL", "REASON",
)  # fmt: skip
#: Columns that go where the terminal is narrow, the most important first.
SPARE = (
    "REASON",
    "LAST POLL",
    "NEXT POLL",
    "LAG",
    "PER MIN",
    "BACKLOG",
    "BUDGET",
    "15 MIN",
    "SOURCE",
    "WAIT",
    "HELD BACK",
)


def heads(units: Sequence[Unit]) -> list[str]:
    """The heads for these units; without tenants there is no column for them."""
    has_tenants = any(unit.tenant is not None for unit in units)
    return [head for head in HEADS if head != "TENANT" or has_tenants]


def row(unit: Unit, columns: Sequence[str]) -> list[object]:
    """The cells of these columns."""
    lag = unit.lag
    cells: dict[str, object] = {
        "TASK": unit.task, "TENANT": unit.tenant, "STATE": unit.state, "IN FLIGHT": unit.in_flight,
        "HELD BACK": held(unit), "NEXT POLL": shown(unit.next_poll_at), "LAST POLL": summary(unit.last_poll),
        "REASON": localized(unit.pause.text) if unit.pause else unit.reason,
    }  # fmt: skip
    if lag is not None:
        cells |= {
            "BACKLOG": lag.backlog, "PER MIN": f"{60 * lag.rate_1m:.0f}", "15 MIN": f"{60 * lag.rate_15m:.0f}",
            "LAG": _seconds(lag.poll_lag), "SOURCE": _seconds(lag.source_lag), "WAIT": _seconds(lag.start_delay),
            "BUDGET": None if lag.budget_used is None else f"{lag.budget_used:.0%}",
        }  # fmt: skip
    return [cells.get(column) for column in columns]


def part_text(area: Area) -> str:
    """How a part is, and the worst of its findings."""
    if not area.findings:
        return localized(area.summary)
    worst = localized(area.findings[0].evidence)
    return worst if area.is_absent else f"{localized(area.summary)}; {worst}"


def held(unit: Unit) -> str:
    """How many keys are held back, and how many are parked."""
    parked = f", {unit.parked_keys} parked" if unit.parked_keys else ""
    return f"{unit.held_back}{parked}"


def summary(outcome: PollOutcome | None) -> str:
    """The status of a poll, and its items."""
    if outcome is None:
        return "-"
    return f"{outcome.status} ({outcome.count})" if outcome.count else outcome.status


def _seconds(value: float | None) -> str | None:
    return None if value is None else duration(value)
