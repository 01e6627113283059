"""Verbs about cursors, and the preview."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from celery_perpetual.cli.group import answer, verb
from celery_perpetual.cli.parameters import a_task, a_tenant, a_yes, argument, as_json
from celery_perpetual.cli.prompts import ask
from celery_perpetual.cli.tables import table
from celery_perpetual.tasks.items import UNSET
from celery_perpetual.wording import counted

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.operations.preview import Preview


@click.group("cursor")
def cursor() -> None:
    """Show, set or reset the cursor of a task.

    The cursor is the place from which the task reads its source.
    """


def _value(_ctx: click.Context, _param: click.Parameter, text: str | None) -> Any:
    if text is None:
        return UNSET
    try:
        return json.loads(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is not JSON; write a text with quotes: '\"abc\"'") from None


@verb
@a_task
@a_tenant
@as_json
def cursor_show(perpetual: Perpetual, task: str, tenant: str | None, json_: bool) -> None:
    """Print the cursor."""
    value = perpetual.cursor(task, tenant)
    answer({"task": task, "tenant": tenant, "cursor": value}, json.dumps(value), json_)


@verb
@a_task
@a_tenant
@argument("value", "The new cursor: a JSON value, a text with its quotes.", metavar="JSON", callback=_value)
@as_json
def cursor_set(perpetual: Perpetual, task: str, tenant: str | None, value: Any, json_: bool) -> None:
    """Set the cursor; the next poll gets it."""
    perpetual.set_cursor(task, value, tenant)
    answer({"task": task, "tenant": tenant, "cursor": value}, f"cursor of {task} is {json.dumps(value)}", json_)


@verb
@a_task
@a_tenant
@a_yes
@as_json
def cursor_reset(perpetual: Perpetual, task: str, tenant: str | None, yes: bool, json_: bool) -> None:
    """Forget the cursor; the next poll reads from the beginning."""
    before = perpetual.cursor(task, tenant)
    if before is not None:
        if not yes:
            ask(f"Forget the cursor {json.dumps(before)} of {task}, and read its source from the beginning?")
        perpetual.reset_cursor(task, tenant)
    text = f"{task} has no cursor" if before is None else f"cursor of {task} is forgotten; it was {json.dumps(before)}"
    answer({"task": task, "tenant": tenant, "cursor": None, "was": before}, text, json_)


for _name, _verb in (("show", cursor_show), ("set", cursor_set), ("reset", cursor_reset)):
    cursor.add_command(_verb, _name)


@verb
@a_task
@a_tenant
@click.option("--cursor", callback=_value, metavar="JSON", help="Evaluate with this cursor instead of the stored one.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(0), help="How many items to print.")
@as_json
def preview(perpetual: Perpetual, task: str, tenant: str | None, cursor: Any, limit: int, json_: bool) -> None:
    """Show what a poll would enqueue; changes nothing. Exit code 1 if next_batch failed or timed out."""
    found = perpetual.preview(task, tenant, cursor)
    if json_:
        click.echo(json.dumps(found.to_dict(), default=str))
    else:
        click.echo(_would(found))
        if found.items:
            rows = [
                (i["task"], i["key"], i.get("args"), i.get("kwargs"), i["options"] or "") for i in found.items[:limit]
            ]
            table(("TASK", "KEY", "ARGS", "KWARGS", "OPTIONS"), rows, empty="no item is shown")
            if len(found.items) > limit:
                click.echo(f"and {len(found.items) - limit} more")
    sys.exit(1 if found.status in ("failed", "timed_out") else 0)


def _would(found: Preview) -> str:
    """The result that a poll would have, in one line."""
    if found.status == "enqueued":
        what = f"would enqueue {found.count} of {counted(found.read, 'item')}"
    elif found.status == "empty":
        what = f"would enqueue nothing of {counted(found.read, 'item')}" if found.read else "next_batch found nothing"
    else:
        what = f"{found.status}: {found.error or found.reason or 'no reason given'}"
    counts = (
        (found.duplicates, counted(found.duplicates, "duplicate")),
        (found.held_back, f"{found.held_back} held back"),
        (found.left_out, f"{found.left_out} left out"),
        (found.bound, f"bounded by {found.bound}"),
    )
    return ", ".join([what, *(text for value, text in counts if value)])
