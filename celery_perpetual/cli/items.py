"""Verbs about items and their keys."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import show, verb
from celery_perpetual.cli.parameters import a_task, a_tenant, argument, as_json
from celery_perpetual.cli.tables import table
from celery_perpetual.cli.times import shown

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual


@verb
@a_task
@a_tenant
@click.option("--key", help="Only this item key; then also its last end.")
@click.option(
    "--state", help="Only this state: waiting, running, retrying, replaced, lost, parked, held_back, parked_key."
)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many.")
@as_json
def items(
    perpetual: Perpetual, task: str, tenant: str | None, key: str | None, state: str | None, limit: int, json_: bool
) -> None:
    """List items in flight, and item keys that polls leave out.

    Exit code 1 if a key is given of which nothing is known.
    """
    found = perpetual.items(task, tenant, key, state, limit + 1)
    more, found = len(found) > limit, found[:limit]
    if json_:
        show([each.to_dict() for each in found])
    elif key is not None and not found:
        click.echo(f"nothing is known of key {key} of {task}")
    else:
        rows = [
            (
                each.key, each.state, each.task_id, shown(each.since),
                shown(each.until), each.failures or None, each.error or each.arguments,
            )
            for each in found
        ]  # fmt: skip
        heads = ("KEY", "STATE", "ID", "SINCE", "UNTIL", "FAILURES", "ERROR OR ARGUMENTS")
        table(
            heads,
            rows,
            empty="no item is in flight, and no key is left out",
            whole=("ID",),
            spare=("SINCE", "ERROR OR ARGUMENTS", "UNTIL", "FAILURES"),
        )
        if more:
            click.echo(f"there are more than {limit}; --limit {10 * limit} shows more of them", err=True)
    sys.exit(1 if key is not None and not found else 0)


@verb
@a_task
@argument("key", "An item key, as `items` shows it.")
@a_tenant
@as_json
def allow(perpetual: Perpetual, task: str, key: str, tenant: str | None, json_: bool) -> None:
    """Free an item key that is held back or parked. Exit code 1 if nothing held it."""
    allowed = perpetual.allow(task, key, tenant)
    if json_:
        show({"allowed": allowed})
    else:
        click.echo(f"key {key} of {task} is free" if allowed else f"nothing held key {key} of {task}")
    sys.exit(0 if allowed else 1)
