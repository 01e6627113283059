"""``celery perpetual purge``: empties a queue."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import answer, verb
from celery_perpetual.cli.parameters import a_yes, argument, as_json
from celery_perpetual.cli.prompts import about_purge, ask
from celery_perpetual.operations.purging import contents
from celery_perpetual.wording import counted

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual


@verb
@argument("queue", "Name of a queue.")
@a_yes
@as_json
def purge(perpetual: Perpetual, queue: str, yes: bool, json_: bool) -> None:
    """Empty a queue; the tasks in it end as revoked.

    Messages that workers have received stay with them. Where no message is seen nothing is deleted; with --yes nothing
    is counted before.
    """
    if not yes:
        found = contents(perpetual, queue)
        if not found.messages:
            _show_purged(queue, 0, json_)
            if not perpetual.grants.broker_is_redis:
                click.echo("this broker may not count its messages; --yes deletes without a look", err=True)
            return
        ask(about_purge(queue, counted(found.messages, "message"), found))
    is_shown = sys.stderr.isatty() and not json_
    _show_purged(queue, perpetual.purge(queue, progress=_show_count if is_shown else None), json_)


def _show_purged(queue: str, count: int, json_: bool) -> None:
    text = f"deleted {counted(count, 'message')} of queue {queue}" if count else f"queue {queue} is empty"
    answer({"purged": count}, text, json_)


def _show_count(count: int) -> None:
    """Show on a terminal how far it is."""
    click.echo(f"\r\033[K{counted(count, 'message')}", err=True, nl=False)
