"""Verbs that say whether all is well."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import answer, bare_verb, perpetual_of, show, verb, with_app
from celery_perpetual.cli.parameters import as_json
from celery_perpetual.cli.times import for_how_long, localized
from celery_perpetual.errors import StoreUnavailable
from celery_perpetual.health.findings import level_of
from celery_perpetual.namespace import namespace_of
from celery_perpetual.operations.liveness import ANY, KINDS, is_alive
from celery_perpetual.operations.status import DOWN, STATES, WELL
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.health.findings import Finding
    from celery_perpetual.operations.status import Area

LOOKED_AT = "settings, tasks, scheduler, store, leader, workers, queues, pauses, polls, parked tasks and keys"
#: Behind the words of a state and the name of a part.
INDENT = " " * 19


@verb
@as_json
def check(perpetual: Perpetual, json_: bool) -> None:
    """Check the set-up, and whether anything stands still now.

    Exit code 0 without findings, 1 with warnings, 2 with errors.

    \b
    Example: celery -A proj perpetual check
    """
    _print_findings(perpetual.check(), json_, LOOKED_AT)


@verb
@as_json
def doctor(perpetual: Perpetual, json_: bool) -> None:
    """Check what `check` does, and what takes longer.

    That is version, speed and connections of the store, and keys that leak.

    Exit code 0 without findings, 1 with warnings, 2 with errors.

    \b
    Example: celery -A proj perpetual doctor
    """
    _print_findings(perpetual.doctor(), json_, f"{LOOKED_AT}, and the store's version, speed, connections and leaks")


def _print_findings(findings: Sequence[Finding], json_: bool, seen: str) -> None:
    if json_:
        show([finding.to_dict() for finding in findings])
    elif not findings:
        click.echo(f"no finding; looked at: {seen}")
    else:
        for finding in findings:
            since = "" if finding.since is None else f"\n  since: {localized(format_time(finding.since))}"
            helps = with_app(finding.help)
            click.echo(
                f"{finding.level}: {localized(finding.evidence)}{since}\n  means: {finding.meaning}\n  helps: {helps}"
            )
    sys.exit(level_of(findings))


@bare_verb
@click.option(
    "--liveness",
    is_flag=False,
    flag_value=ANY,
    type=click.Choice(KINDS),
    help="Only whether a beat, a worker, or either lives on this machine; imports no tasks.",
)
@click.option("--name", help="With --liveness: name of the worker, such as celery@host; else any of this machine.")
@as_json
def status(app: Any, liveness: str | None, name: str | None, json_: bool) -> None:
    """Say in five lines whether all is well.

    If not, it says what is wrong, since when, and which command helps.

    Exit code 0 well, 1 degraded, 2 down: nothing is polled, or no state is kept.

    With --liveness, for probes: 0 if a beat or a worker of this machine was in contact with the store lately, 2 if
    none was. Where the store does not answer it is 0, because a restart of the process would not help.

    \b
    Examples:
      celery -A proj perpetual status
      celery -A proj perpetual status --liveness worker --name celery@$HOSTNAME
    """
    if liveness is not None:
        _say_whether_alive(app, liveness, name, json_)
    found = perpetual_of(app).status()
    if json_:
        show(found.to_dict())
    else:
        for area in found.areas:
            click.echo(_line(area))
    sys.exit(found.exit_code)


def _say_whether_alive(app: Any, kind: str, name: str | None, json_: bool) -> None:
    try:
        alive = is_alive(namespace_of(app), kind, name)
    except StoreUnavailable as error:
        click.echo(f"nothing is known, as the store does not answer: {error}", err=True)
        if json_:
            show({"alive": None})
        sys.exit(0)
    dead = f"no {name or 'beat or worker' if kind == ANY else name or kind} lives here"
    answer({"alive": alive}, "alive" if alive else dead, json_)
    sys.exit(0 if alive else STATES.index(DOWN))


def _line(area: Area) -> str:
    """One line of a part that is well; the worst finding and its command where it is not."""
    head = f"{area.state:<9} {area.name:<8} "
    if area.state == WELL or not area.findings:
        return f"{head}{localized(area.summary)}"
    worst, more = area.findings[0], len(area.findings) - 1
    others = f"; {more} more: {with_app('celery -A proj perpetual doctor')}" if more else ""
    return (
        f"{head}{localized(worst.evidence)}{for_how_long(worst.since)}\n{INDENT}helps: {with_app(worst.help)}{others}"
    )
