"""Verbs that read."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import a_task, a_tenant, as_json, counted, show, verb, with_app
from celery_perpetual.cli.tables import table
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.operations.units import Unit
    from celery_perpetual.polling.outcome import PollOutcome


@verb
@as_json
def units(perpetual: Perpetual, json_: bool) -> None:
    """List the units with their state, next and last poll."""
    found = perpetual.units()
    if json_:
        show([unit.to_dict() for unit in found])
        return
    if leader_info(perpetual.store) is None:
        click.echo("no beat holds the lead: nothing is polled", err=True)
    rows = [
        (
            u.task,
            u.tenant,
            u.state,
            u.in_flight,
            _held(u),
            _time(u.next_poll_at),
            _summary(u.last_poll),
            u.pause.text if u.pause else u.reason,
        )
        for u in found
    ]
    table(("TASK", "TENANT", "STATE", "IN FLIGHT", "HELD BACK", "NEXT POLL", "LAST POLL", "REASON"), rows)


@verb
@a_task
@a_tenant
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1), help="How many.")
@as_json
def polls(perpetual: Perpetual, task: str, tenant: str | None, limit: int, json_: bool) -> None:
    """List the outcomes of a task's polls, newest first."""
    found = perpetual.polls(task, tenant, limit)
    if json_:
        show([outcome.to_dict() for outcome in found])
    else:
        _print_polls(found)


@verb
@a_task
@a_tenant
@as_json
def why(perpetual: Perpetual, task: str, tenant: str | None, json_: bool) -> None:
    """Explain why a task is quiet, or what it does next."""
    found = perpetual.why(task, tenant)
    if json_:
        show(found.to_dict())
        return
    unit = found.unit
    named = "" if unit.tenant is None else f", tenant {unit.tenant}"
    click.echo(
        f"{unit.task}{named}: {unit.state}, {unit.in_flight} in flight, next poll {_time(unit.next_poll_at) or '-'}"
    )
    for reason in found.reasons:
        click.echo(f"- {reason.evidence}\n  means: {reason.meaning}")
        if reason.help:
            click.echo(f"  helps: {with_app(reason.help)}")
    if found.polls:
        click.echo()
        _print_polls(found.polls)


def _print_polls(found: Any) -> None:
    rows = [(_time(p.slot), p.trigger, p.status, p.count, p.repeated, detail(p)) for p in found]
    table(("SLOT", "TRIGGER", "STATUS", "ITEMS", "TIMES", "DETAIL"), rows)


def _held(unit: Unit) -> str:
    parked = f", {unit.parked_keys} parked" if unit.parked_keys else ""
    return f"{unit.held_back}{parked}"


def _summary(outcome: PollOutcome | None) -> str:
    if outcome is None:
        return "-"
    return f"{outcome.status} ({outcome.count})" if outcome.count else outcome.status


def detail(outcome: PollOutcome) -> str:
    gate = outcome.gate
    if gate and outcome.value is not None:
        gate += f" {outcome.value:g}" + ("" if outcome.limit is None else f" of {outcome.limit:g}")
    facts = [
        counted(outcome.duplicates, "duplicate") if outcome.duplicates else None,
        f"{outcome.held_back} held back" if outcome.held_back else None,
        f"{outcome.left_out} left out" if outcome.left_out else None,
        gate,
        outcome.reason,
        outcome.error,
    ]
    return ", ".join(fact for fact in facts if fact)


def _time(at: datetime | None) -> str | None:
    return None if at is None else format_time(at)
