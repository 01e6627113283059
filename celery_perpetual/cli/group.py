"""The command group and what its verbs share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from itertools import takewhile, zip_longest
from typing import Any

import click
from celery.bin.base import CeleryCommand, handle_preload_options

from celery_perpetual.app import Perpetual
from celery_perpetual.errors import NotFound, PerpetualError

USAGE, UNKNOWN = 2, 3


@click.group("perpetual")
def perpetual() -> None:
    """Perpetual tasks: see them, poll, pause and resume them."""


def verb(function: Callable[..., Any]) -> click.Command:
    """A verb: it gets the app's ``Perpetual`` first; errors become one line and exit code 2, 3 for an unknown id."""

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
            sys.exit(UNKNOWN if isinstance(error, NotFound) else USAGE)

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
    words = list(takewhile(lambda word: word != perpetual.name, sys.argv[1:]))
    for word, following in zip_longest(words, words[1:]):
        if word in ("-A", "--app"):
            given = following or given
        elif word.startswith(("-A", "--app=")):
            given = word.removeprefix("--app=").removeprefix("-A")
    return text.replace("celery -A proj ", f"celery -A {given} ")


def show(value: Any) -> None:
    """Print JSON."""
    click.echo(json.dumps(value))


def answer(value: Any, text: str, json_: bool) -> None:
    """Print a value as JSON, or the text that says the same."""
    if json_:
        show(value)
    else:
        click.echo(text)
