"""The command group and what its verbs share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
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

    @wraps(function)
    def with_tasks(app: Any, *args: Any, **options: Any) -> Any:
        return function(perpetual_of(app), *args, **options)

    return bare_verb(with_tasks)


def bare_verb(function: Callable[..., Any]) -> click.Command:
    """A verb that gets the app, whose modules of tasks are not imported yet."""

    @click.pass_context
    @handle_preload_options
    @wraps(function)
    def call(ctx: click.Context, *args: Any, **options: Any) -> Any:
        try:
            return function(ctx.obj.app, *args, **options)
        except PerpetualError as error:
            click.echo(f"Error: {error}", err=True)
            sys.exit(USAGE)

    return click.command(cls=CeleryCommand)(call)


def perpetual_of(app: Any) -> Perpetual:
    """The app's ``Perpetual``, when its modules are imported; one for this command where it is not wired."""
    app.loader.import_default_modules()
    app.finalize()
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


def counted(count: int, what: str) -> str:
    """A number and its noun, which gets its plural from an s."""
    return f"{count} {what}{'' if count == 1 else 's'}"
