"""The verb that ends all work in an orderly way."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import show, verb
from celery_perpetual.cli.parameters import as_json
from celery_perpetual.cli.values import a_duration
from celery_perpetual.wording import counted

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.operations.draining import DrainReport


@verb
@click.option(
    "--timeout",
    metavar="TIME",
    required=True,
    callback=a_duration,
    help="How long to wait, like 90 or 5m; 0 counts once.",
)
@click.option("--reason", default="drain", show_default=True, help="Why; shown with the pause.")
@as_json
def drain(perpetual: Perpetual, timeout: timedelta, reason: str, json_: bool) -> None:
    """Pause everything, and wait until no item is in flight. Exit code 1 if the time is over before.

    Everything stays paused: `resume --all` ends that. Parked items are not waited for.

    Example: celery -A proj perpetual drain --timeout 5m --reason "migration 42"
    """
    report = perpetual.drain(timeout, reason=reason, progress=None if json_ else Progress())
    if json_:
        show(report.to_dict())
    else:
        left = _shown(report)
        click.echo("drained: no item is in flight" if report.completed else f"the time is over: {left}")
        if report.parked:
            click.echo(f"{counted(report.parked, 'item')} parked, see: celery -A proj perpetual parked")
        click.echo("everything stays paused, until: celery -A proj perpetual resume --all")
    sys.exit(0 if report.completed else 1)


class Progress:
    """Shows on standard error how far it is: on a terminal in one line, else a line for each change."""

    def __init__(self) -> None:
        self._last = ""

    def __call__(self, report: DrainReport) -> None:
        """Show a count."""
        text, is_terminal = _shown(report), sys.stderr.isatty()
        if text != self._last:
            click.echo(f"\r\033[K{text}" if is_terminal else text, err=True, nl=not is_terminal)
        self._last = text
        if is_terminal and report.completed:
            click.echo("", err=True)


def _shown(report: DrainReport) -> str:
    return f"{counted(report.remaining, 'item')} in flight, {counted(report.polls, 'poll')} under way"
