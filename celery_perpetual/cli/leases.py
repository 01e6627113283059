"""Verbs about leases, parked tasks and workers."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from celery_perpetual.cli.group import as_json, show, verb
from celery_perpetual.cli.tables import table
from celery_perpetual.times import format_time

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual

a_task_id = click.argument("task_id", metavar="ID")
a_limit = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many.")
a_once = click.option("--once", is_flag=True, help="Let the next poll that finds its row enqueue it again.")
a_yes = click.option("--yes", is_flag=True, help="Do not ask.")


@verb
@a_limit
@as_json
def leases(perpetual: Perpetual, limit: int, json_: bool) -> None:
    """List the tasks that are executed right now, oldest first."""
    found = perpetual.leases(limit)
    if json_:
        show([lease.to_dict() for lease in found])
        return
    rows = [
        (
            x.task_id, x.task, x.key, x.worker, x.token, x.attempt, x.recoveries, format_time(x.started_at),
            x.item.arguments,
        )
        for x in found
    ]  # fmt: skip
    table(("ID", "TASK", "KEY", "WORKER", "TOKEN", "ATTEMPT", "RECOVERIES", "SINCE", "ARGUMENTS"), rows)


@verb
@a_limit
@as_json
def parked(perpetual: Perpetual, limit: int, json_: bool) -> None:
    """List the tasks that wait for an operator, longest first."""
    found = perpetual.parked(limit)
    if json_:
        show([lease.to_dict() for lease in found])
        return
    rows = [
        (x.task_id, x.task, x.key, x.recoveries, x.parked_at and format_time(x.parked_at), x.reason, x.item.arguments)
        for x in found
    ]
    table(("ID", "TASK", "KEY", "RECOVERIES", "SINCE", "REASON", "ARGUMENTS"), rows) if rows else click.echo(
        "no task is parked"
    )


@verb
@as_json
def workers(perpetual: Perpetual, json_: bool) -> None:
    """List the living workers, as they last reported."""
    found = perpetual.workers()
    if json_:
        show([worker.to_dict() for worker in found])
        return
    rows = [
        (x.name, x.state, x.pool, x.concurrency, x.active, x.reserved, format_time(x.reported_at), ",".join(x.queues))
        for x in found
    ]
    table(("WORKER", "STATE", "POOL", "CONCURRENCY", "ACTIVE", "RESERVED", "REPORTED", "QUEUES"), rows)


def _exit(done: bool, json_: bool, what: str, done_text: str, otherwise: str) -> None:
    if json_:
        show({what: done})
    else:
        click.echo(done_text if done else otherwise)
    sys.exit(0 if done else 1)


@verb
@a_task_id
@as_json
def recover(perpetual: Perpetual, task_id: str, json_: bool) -> None:
    """Let a parked task run again. Exit code 1 if it is not parked."""
    _exit(perpetual.recover(task_id), json_, "recovered", f"{task_id} runs again", f"{task_id} is not parked")


@verb
@a_task_id
@a_yes
@as_json
def release(perpetual: Perpetual, task_id: str, yes: bool, json_: bool) -> None:
    """Take the lease of a running task away and resend the task. Exit code 1 if it holds none."""
    _ask(yes, f"Take the lease of {task_id} away? Its result is dropped, and the task is resent.")
    _exit(perpetual.release(task_id), json_, "released", f"{task_id} is resent", f"{task_id} holds no lease")


@verb
@a_task_id
@click.option("--reason", required=True, help="Why; the waiters of the task get this text.")
@a_once
@a_yes
@as_json
def fail(perpetual: Perpetual, task_id: str, reason: str, once: bool, yes: bool, json_: bool) -> None:
    """End a task as failed. Exit code 1 if it has ended before, or is unknown.

    Polls leave the key of an item out until it is allowed (`allow TASK KEY`).
    """
    _ask(yes, f"End {task_id} as failed? {_follows(once)}")
    _exit(
        perpetual.fail(task_id, reason, once),
        json_,
        "failed",
        f"{task_id} has failed",
        f"{task_id} was not ended: it has ended before, or is unknown",
    )


@verb
@a_task_id
@a_once
@a_yes
@as_json
def cancel(perpetual: Perpetual, task_id: str, once: bool, yes: bool, json_: bool) -> None:
    """End a task as revoked, running or not. Exit code 1 if it has ended before, or is unknown.

    Polls leave the key of an item out until it is allowed (`allow TASK KEY`).
    """
    _ask(yes, f"Cancel {task_id}? {_follows(once)}")
    _exit(
        perpetual.cancel(task_id, once),
        json_,
        "cancelled",
        f"{task_id} is revoked",
        f"{task_id} was not ended: it has ended before, or is unknown",
    )


@verb
@click.argument("queue")
@a_yes
@as_json
def purge(perpetual: Perpetual, queue: str, yes: bool, json_: bool) -> None:
    """Empty a queue; the tasks in it end as revoked."""
    _ask(yes, f"Delete all messages of queue {queue}?")
    count = perpetual.purge(queue)
    if json_:
        show({"purged": count})
    else:
        click.echo(f"deleted {count} messages of queue {queue}")


def _follows(once: bool) -> str:
    """How the key of an item is left that an operator ends."""
    if once:
        return "The next poll that finds its row enqueues it again."
    return "Polls leave its key out until you allow it; with --once the next poll enqueues it again."


def _ask(yes: bool, question: str) -> None:
    if not yes:
        click.confirm(question, abort=True, err=True)


VERBS: tuple[click.Command, ...] = (leases, parked, workers, recover, release, fail, cancel, purge)
