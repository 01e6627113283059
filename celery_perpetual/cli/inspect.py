"""Verbs that read."""

from __future__ import annotations

from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import show, verb, with_app
from celery_perpetual.cli.parameters import a_task, a_tenant, as_json
from celery_perpetual.cli.tables import table
from celery_perpetual.cli.times import for_how_long, localized, shown
from celery_perpetual.cli.unit_rows import SPARE, heads, row
from celery_perpetual.operations.units import STATES
from celery_perpetual.store.commands.leadership import leader_info
from celery_perpetual.wording import counted

#: Gates whose value is a time.
IN_SECONDS = ("window", "wait_hint", "hanging", "poll_threads")
#: Rows of a table, unless more are asked for.
MOST_ROWS = 100

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.polling.outcome import PollOutcome


@verb
@click.option("--task", help="Only the units of this task.")
@click.option("--tenant", help="Only those of this tenant.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@click.option("--limit", type=click.IntRange(1), help="How many; 100 in a table, all with --json, unless given.")
@click.option("--after", metavar="NAME", help="Only those behind this name: the next page.")
@as_json
def units(
    perpetual: Perpetual,
    task: str | None,
    tenant: str | None,
    state: str | None,
    limit: int | None,
    after: str | None,
    json_: bool,
) -> None:
    """List the units: state, lag, next and last poll.

    \b
    Examples:
      celery -A proj perpetual units
      celery -A proj perpetual units --state backing_off
    """
    if json_:
        show([unit.to_dict() for unit in perpetual.units(task, tenant, state=state, limit=limit, after=after)])
        return
    most = limit or MOST_ROWS
    found = perpetual.units(task, tenant, state=state, limit=most + 1, after=after)
    if leader_info(perpetual.store) is None:
        click.echo("no beat holds the lead: nothing is polled", err=True)
    columns = heads(found)
    table(columns, [row(unit, columns) for unit in found[:most]], empty="there is no such unit", spare=SPARE)
    if len(found) > most:
        click.echo(f"more units follow: --after {quote(found[most - 1].name)}", err=True)


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
        f"{unit.task}{named}: {unit.state}, {unit.in_flight} in flight, next poll {shown(unit.next_poll_at) or '-'}"
    )
    for reason in found.reasons:
        click.echo(f"- {localized(reason.evidence)}{for_how_long(reason.since)}\n  means: {localized(reason.meaning)}")
        if reason.help:
            click.echo(f"  helps: {with_app(reason.help)}")
    if found.polls:
        click.echo()
        _print_polls(found.polls)


def _print_polls(found: Any) -> None:
    rows = [(shown(p.slot), p.trigger, p.status, p.count, p.repeated, localized(detail(p))) for p in found]
    table(("SLOT", "TRIGGER", "STATUS", "ITEMS", "TIMES", "DETAIL"), rows, empty="there was no poll yet")


def in_one_line(outcome: PollOutcome) -> str:
    """An outcome as the answer of a verb that polls."""
    facts = (f"{outcome.status}: {counted(outcome.count, 'item')}", detail(outcome))
    return ", ".join(fact for fact in facts if fact)


def detail(outcome: PollOutcome) -> str:
    """The facts of an outcome beside its count, in words."""
    gate = outcome.gate
    if gate and outcome.value is not None:
        gate += f" {outcome.value:g}{' s' if gate in IN_SECONDS else ''}"
        gate += f" of {outcome.limit:g}" if outcome.limit else ""
    facts = [
        counted(outcome.duplicates, "duplicate") if outcome.duplicates else None,
        f"{outcome.held_back} held back" if outcome.held_back else None,
        f"{outcome.left_out} left out" if outcome.left_out else None,
        gate,
        outcome.reason,
        outcome.error,
    ]
    return ", ".join(fact for fact in facts if fact)
