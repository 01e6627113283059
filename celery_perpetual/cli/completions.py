"""Verbs about ends."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import as_json, show, verb
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual
    from celery_perpetual.completions.completion import Completion

OTHER_END, UNKNOWN, TIMED_OUT = 1, 3, 4


@verb
@click.argument("task_id", metavar="ID")
@click.option("--timeout", required=True, type=click.FloatRange(0), help="Seconds to wait at most.")
@as_json
def wait(perpetual: Perpetual, task_id: str, timeout: float, json_: bool) -> None:
    """Wait until a task has ended.

    Exit code 0 for success, 1 for any other end, 3 for an id that nobody knows, 4 when the time is over.
    """
    completion = perpetual.wait(task_id, timeout)
    if json_:
        show(completion.to_dict())
    else:
        click.echo(_line(completion))
    if completion.ok:
        sys.exit(0)
    sys.exit(TIMED_OUT if completion.timed_out else UNKNOWN if completion.status == "unknown" else OTHER_END)


@verb
@click.option("--task", help="Only ends of this task.")
@click.option("--status", multiple=True, help="Only this status; may be given more than once.")
@as_json
def completions(perpetual: Perpetual, task: str | None, status: tuple[str, ...], json_: bool) -> None:
    """Follow ends as they happen, one line each, until interrupted."""
    for completion in perpetual.subscribe():
        if (task is None or completion.task == task) and (not status or completion.status in status):
            if json_:
                show(completion.to_dict())
            else:
                click.echo(_line(completion))
            sys.stdout.flush()


def _line(completion: Completion) -> str:
    at = "" if completion.finished_at is None else f"{format_time(completion.finished_at)}  "
    runtime = "" if completion.runtime is None else f"  {completion.runtime:.3f} s"
    error = f"  {completion.error['type']}: {completion.error['message']}" if completion.error else ""
    return f"{at}{completion.status}  {completion.task or '-'}  {completion.task_id}{runtime}{error}"
