"""The command group and what its verbs share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from celery_perpetual.app import Perpetual
from celery_perpetual.errors import PerpetualError

USAGE = 2


@click.group("perpetual")
def perpetual() -> None:
    """Perpetual tasks: see them, poll, pause and resume them."""


def verb(function: Callable[..., Any]) -> click.Command:
    """A verb: it gets the app's ``Perpetual`` first; our errors become one line and exit code 2."""

    @click.pass_context
    @handle_preload_options
    @wraps(function)
    def call(ctx: click.Context, *args: Any, **options: Any) -> Any:
        app = ctx.obj.app
        app.loader.import_default_modules()
        app.finalize()
        try:
            return function(_perpetual_of(app), *args, **options)
        except PerpetualError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(USAGE)

    return click.command(cls=CeleryCommand)(call)


def _perpetual_of(app: Any) -> Perpetual:
    found: Perpetual | None = getattr(app, "perpetual", None)
    if found is None:
        found = Perpetual(app)
        found.is_wired = False
    return found


def with_app(text: str) -> str:
    """A command to type, with the name of the app as it was given to this one."""
    given = os.environ.get("APP") or os.environ.get("CELERY_APP") or "proj"
    words = sys.argv[1:]
    for at, word in enumerate(words):
        if word in ("-A", "--app") and at + 1 < len(words):
            given = words[at + 1]
        elif word.startswith("--app="):
            given = word.removeprefix("--app=")
    return text.replace("celery -A proj ", f"celery -A {given} ")


as_json = click.option("--json", "json_", is_flag=True, help="Print JSON.")
a_task = click.argument("task")
a_tenant = click.option("--tenant", help="Tenant of the task.")


def show(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value))


def _one_line(cell: object) -> str:
    """The first line of a text, with the mark of a cut where there are more."""
    first, _, rest = str(cell).strip().partition("\n")
    return " ".join(first.split()) + (" ..." if rest else "")


def counted(count: int, what: str) -> str:
    """A number and its noun, which gets its plural from an s."""
    return f"{count} {what}{'' if count == 1 else 's'}"


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns, a row in one line; the last column may be as long as it likes."""
    lines = [list(heads), *(["" if cell is None else _one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads) - 1)]
    for line in lines:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        click.echo("  ".join([*cells, line[-1]]).rstrip())
