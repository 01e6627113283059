"""Verbs about the upkeep of a namespace: passes by hand, their sums, and a repair of the indexes."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import show, verb
from celery_perpetual.cli.parameters import a_yes, as_json
from celery_perpetual.cli.prompts import ask
from celery_perpetual.cli.times import localized

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual


@verb
@as_json
def stats(perpetual: Perpetual, json_: bool) -> None:
    """Show the sums of all maintenance passes, and other counts.

    Example: celery -A proj perpetual stats --json
    """
    found = perpetual.stats()
    if json_:
        show(found.to_dict())
        return
    values = {name: value for name, value in found.to_dict().items() if name not in ("counters", "last_error")}
    _pairs(values | dict(found.counters))
    if (error := found.last_error) is not None:
        click.echo(f"last error: step {error['step']} at {localized(error['at'])}: {error['error']}")


@verb
@as_json
def cycle(perpetual: Perpetual, json_: bool) -> None:
    """Make one maintenance pass here. Exit code 1 if a step failed.

    The leader makes one every few seconds.

    Example: celery -A proj perpetual cycle
    """
    found = perpetual.cycle()
    if json_:
        show(found.to_dict())
    elif found.busy:
        click.echo("another pass is under way")
    else:
        _pairs({
            name: f"{value:.3f}" if name == "seconds" else value
            for name, value in found.to_dict().items() if value and name != "errors"
        })  # fmt: skip
        for step, text in found.errors.items():
            click.echo(f"step {step} failed: {text}", err=True)
    sys.exit(0 if found.ok else 1)


@verb
@a_yes
@as_json
def rebuild(perpetual: Perpetual, yes: bool, json_: bool) -> None:
    """Derive every index from the records, and show what was wrong. Exit code 1 if a part failed.

    It reads every record of the namespace, and is meant for a store that was repaired by hand or restored in parts.

    Example: celery -A proj perpetual rebuild --yes
    """
    if not yes:
        ask("Read every record, and derive all indexes from them?")
    is_shown = sys.stderr.isatty() and not json_
    found = perpetual.rebuild(progress=_progress if is_shown else None)
    if json_:
        show(found.to_dict())
    else:
        read = ", ".join(f"{count} {kind}" for kind, count in found.read.items())
        click.echo(f"read {read or 'nothing'} in {found.seconds:.1f} s")
        for index, count in found.repaired.items():
            click.echo(f"repaired {index}: {count}")
        if not found.repaired:
            click.echo("every index was right")
        for part, text in found.errors.items():
            click.echo(f"part {part} failed: {text}", err=True)
    sys.exit(1 if found.errors else 0)


def _progress(kind: str, count: int) -> None:
    click.echo(f"\r\033[K{count} {kind}", err=True, nl=False)


def _pairs(values: Mapping[str, object]) -> None:
    width = max((len(name) for name in values), default=0)
    for name, value in values.items():
        shown = ", ".join(str(each) for each in value) if isinstance(value, list) else value
        click.echo(f"{name.ljust(width)}  {'-' if shown is None else localized(str(shown))}")
