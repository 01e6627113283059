"""Verbs about ends."""

from __future__ import annotations

import json
import os
import socket
import sys
from typing import TYPE_CHECKING, Literal

import click

from celery_perpetual.cli.group import UNKNOWN, answer, verb
from celery_perpetual.cli.parameters import argument, as_json
from celery_perpetual.cli.times import localized, shown
from celery_perpetual.cli.values import a_duration
from celery_perpetual.completions.completion import (
    EXPIRED,
    FAILURE,
    IGNORED,
    LOST,
    NEEDS_ATTENTION,
    REJECTED,
    REVOKED,
    SUCCESS,
)
from celery_perpetual.hints import hint

if TYPE_CHECKING:
    from datetime import timedelta

    from celery_perpetual.app import Perpetual
    from celery_perpetual.completions.completion import Completion

a_timeout = click.option(
    "--timeout", metavar="TIME", required=True, callback=a_duration, help="How long to wait at most, like 90 or 5m."
)
OTHER_END, TIMED_OUT = 1, 4
#: With which a completion may come.
STATUSES = (SUCCESS, FAILURE, REVOKED, EXPIRED, REJECTED, IGNORED, LOST, NEEDS_ATTENTION)


@verb
@argument("task_id", "Id of a task.", metavar="ID")
@a_timeout
@as_json
def wait(perpetual: Perpetual, task_id: str, timeout: timedelta, json_: bool) -> None:
    """Wait until a task has ended.

    Exit code 0 for success, 1 for any other end, 3 for an unknown id, 4 when the time is over.
    """
    completion = perpetual.wait(task_id, timeout)
    answer(completion.to_dict(), _line(completion), json_)
    if completion.ok:
        sys.exit(0)
    sys.exit(TIMED_OUT if completion.timed_out else UNKNOWN if completion.status == "unknown" else OTHER_END)


@verb
@click.option("--task", help="Only ends of this task.")
@click.option(
    "--status", multiple=True, type=click.Choice(STATUSES), help="Only this status; may be given more than once."
)
@click.option("--tenant", metavar="NAME", help="Only ends of items of this tenant.")
@as_json
def completions(
    perpetual: Perpetual, task: str | None, status: tuple[str, ...], tenant: str | None, json_: bool
) -> None:
    """Follow ends as they happen until interrupted, one line each."""
    if task is not None and task not in (tasks := perpetual.app.tasks):
        raise click.BadParameter(f"no task {task} is registered{hint(task, tasks, 0.4)}")
    _say_that_it_follows("ends")
    for completion in perpetual.subscribe():
        if task not in (None, completion.task) or tenant not in (None, completion.tenant):
            continue
        if status and completion.status not in status:
            continue
        answer(completion.to_dict(), _line(completion), json_)
        sys.stdout.flush()


@verb
@click.option("--group", required=True, help="Consumer group; its members share the events.")
@click.option("--consumer", default=lambda: f"{socket.gethostname()}:{os.getpid()}", help="Member of the group.")
@click.option(
    "--start",
    type=click.Choice(["new", "all"]),
    default="all",
    show_default=True,
    help="Where a new group begins: with the next event, or with the oldest one.",
)
@click.option("--event", multiple=True, help="Print only this event; may be given more than once.")
@as_json
def stream(
    perpetual: Perpetual, group: str, consumer: str, start: Literal["new", "all"], event: tuple[str, ...], json_: bool
) -> None:
    """Follow the stream of events until interrupted, one line each.

    Every event reaches one member of the group at least once; it is acknowledged when the next one is asked for.
    """
    _say_that_it_follows("events")
    for each in perpetual.stream(group, consumer, start):
        if event and each.event not in event:
            continue
        line = f"{localized(str(each.data.get('at', '-')))}  {each.event}  {json.dumps(each.data)}"
        answer({"id": each.id, "event": each.event, "data": each.data}, line, json_)
        sys.stdout.flush()


@verb
@argument("poll_id", "Id of a poll, as `polls --json` shows it.", metavar="POLL")
@a_timeout
@as_json
def wait_batch(perpetual: Perpetual, poll_id: str, timeout: timedelta, json_: bool) -> None:
    """Wait until every item of a poll has ended.

    Exit code 0 if all have succeeded, 1 if some have not, 3 for an unknown poll, 4 when the time is over.
    """
    result = perpetual.wait_batch(poll_id, timeout)
    ends = ", ".join(f"{count} {status}" for status, count in result.by_status.items()) or "none has ended"
    answer(result.to_dict(), f"{sum(result.by_status.values())} of {result.total}: {ends}", json_)
    if result.timed_out:
        sys.exit(TIMED_OUT)
    sys.exit(0 if result.by_status.get("success", 0) == result.total else OTHER_END)


def _say_that_it_follows(what: str) -> None:
    """On a terminal: nothing else is printed until something happens."""
    if sys.stderr.isatty():
        click.echo(f"following {what}; Ctrl-C stops it", err=True)


def _line(completion: Completion) -> str:
    at = "" if completion.finished_at is None else f"{shown(completion.finished_at)}  "
    runtime = "" if completion.runtime is None else f"  {completion.runtime:.3f} s"
    error = f"  {completion.error['type']}: {completion.error['message']}" if completion.error else ""
    tenant = "" if completion.tenant is None else f"  tenant {completion.tenant}"
    key = "" if completion.key is None else f"  key {completion.key}"
    given = [json.dumps(each) for each in completion.arguments or () if each]
    arguments = f"  arguments {' '.join(given)}" if given else ""
    result = "" if completion.result is None else f"  result {json.dumps(completion.result)}"
    what = f"{completion.status}  {completion.task or '-'}  {completion.task_id}"
    return f"{at}{what}{tenant}{key}{arguments}{runtime}{error}{result}"
