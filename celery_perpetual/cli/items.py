"""Verbs about items and their keys."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import answer, verb
from celery_perpetual.cli.parameters import a_task, a_tenant, argument, as_json
from celery_perpetual.cli.tables import listing
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
    if key is not None and not found and not json_:
        click.echo(f"nothing is known of key {key} of {task}")
    else:
        listing(
            found, json_, limit, heads=("KEY", "STATE", "ID", "SINCE", "UNTIL", "FAILURES", "ERROR OR ARGUMENTS"),
            row=lambda x: (
                x.key, x.state, x.task_id, shown(x.since), shown(x.until), x.failures or None, x.error or x.arguments
            ),
            empty="no item is in flight, and no key is left out", whole=("ID",),
            spare=("SINCE", "ERROR OR ARGUMENTS", "UNTIL", "FAILURES"),
        )  # fmt: skip
    sys.exit(1 if key is not None and not found else 0)


@verb
@a_task
@argument("key", "An item key, as `items` shows it.")
@a_tenant
@as_json
def allow(perpetual: Perpetual, task: str, key: str, tenant: str | None, json_: bool) -> None:
    """Free an item key that is held back or parked. Exit code 1 if nothing held it."""
    allowed = perpetual.allow(task, key, tenant)
    text = f"key {key} of {task} is free" if allowed else f"nothing held key {key} of {task}"
    answer({"allowed": allowed}, text, json_)
    sys.exit(0 if allowed else 1)
