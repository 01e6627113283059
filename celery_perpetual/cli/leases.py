"""Verbs about leases, parked tasks and workers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import click

from celery_perpetual.cli.group import answer, show, verb
from celery_perpetual.cli.inspect import in_one_line
from celery_perpetual.cli.parameters import a_yes, argument, as_json, no_question
from celery_perpetual.cli.prompts import about_key, ask_about
from celery_perpetual.cli.tables import listing
from celery_perpetual.cli.times import shown
from celery_perpetual.completions.completion import FAILURE, REVOKED, UNKNOWN
from celery_perpetual.operations.endable import can_be_ended, half_ended
from celery_perpetual.operations.forcing import MOST, Forced
from celery_perpetual.store.commands.leases import lease_of

if TYPE_CHECKING:
    from celery_perpetual.app import Perpetual

some_task_ids = argument("task_ids", "Id of a task; several may be given.", metavar="ID...", nargs=-1, required=True)
a_limit = click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="How many.")
a_once = click.option("--once", is_flag=True, help="Let the next poll that finds its row enqueue it again.")
a_reason = click.option("--reason", default="", help="Why; on record with the event `operator`.")


@verb
@a_limit
@as_json
def leases(perpetual: Perpetual, limit: int, json_: bool) -> None:
    """List the tasks that are executed right now, oldest first."""
    listing(
        perpetual.leases(limit + 1), json_, limit,
        heads=("ID", "TASK", "KEY", "WORKER", "TOKEN", "ATTEMPT", "RECOVERIES", "SINCE", "ARGUMENTS"),
        row=lambda x: (
            x.task_id, x.task, x.key, x.worker, x.token, x.attempt, x.recoveries, shown(x.started_at), x.item.arguments
        ),
        empty="no task runs", whole=("ID",),
        spare=("SINCE", "KEY", "WORKER", "ARGUMENTS", "RECOVERIES", "ATTEMPT", "TOKEN"),
    )  # fmt: skip


@verb
@a_limit
@as_json
def parked(perpetual: Perpetual, limit: int, json_: bool) -> None:
    """List the tasks that wait for an operator, longest first."""
    listing(
        perpetual.parked(limit + 1), json_, limit,
        heads=("ID", "TASK", "KEY", "RECOVERIES", "SINCE", "REASON", "ARGUMENTS"),
        row=lambda x: (x.task_id, x.task, x.key, x.recoveries, shown(x.parked_at), x.reason, x.item.arguments),
        empty="no task is parked", whole=("ID",), spare=("KEY", "REASON", "SINCE", "ARGUMENTS", "RECOVERIES"),
    )  # fmt: skip


@verb
@as_json
def workers(perpetual: Perpetual, json_: bool) -> None:
    """List the living workers, as they last reported.

    A worker is late when it has missed two heartbeats: it is frozen, or does not reach the store.
    """
    listing(
        perpetual.workers(), json_,
        heads=("WORKER", "STATE", "POOL", "CONCURRENCY", "ACTIVE", "RESERVED", "REPORTED", "QUEUES"),
        row=lambda x: (
            x.name, x.state, x.pool, x.concurrency, x.active, x.reserved,
            shown(x.reported_at) or "not yet", ",".join(x.queues),
        ),
        empty="no worker lives", spare=("REPORTED", "QUEUES", "RESERVED", "POOL"),
    )  # fmt: skip


def _end(
    act: Callable[[list[str]], list[Forced]], ids: Sequence[str], json_: bool, key: str, done: str,
    otherwise: Callable[[str], str], agreed: Sequence[str] | None = None,
) -> NoReturn:  # fmt: skip
    """Do it to each, show the results, and end: with 0 if it was done to all.

    Args:
        agreed: those of the ids that a question has named; the others are only reported. None: there was no question.
    """
    unique = list(dict.fromkeys(ids))
    found = {each.task_id: each for each in _each_in_parts(act, unique if agreed is None else agreed, quiet=json_)}
    results = [found.get(each) or Forced(task_id=each, done=False) for each in unique]
    if json_ and len(ids) == 1:
        (only,) = results
        show({key: only.done} | ({"new_task_id": only.new_task_id} if only.new_task_id else {}))
        if only.error:
            click.echo(f"Error: {only.error}", err=True)
    elif json_:
        show([each.to_dict() for each in results])
    else:
        for each in results:
            new = f" as {each.new_task_id}" if each.new_task_id else ""
            said = f" {done}{new}" if each.done else f": {each.error}" if each.error else f" {otherwise(each.task_id)}"
            click.echo(f"{each.task_id}{said}")
    sys.exit(0 if all(each.done for each in results) else 1)


def _may_be_ended(perpetual: Perpetual, status: str, task_id: str) -> bool:
    """Whether `fail` or `cancel` would do something about a task."""
    return can_be_ended(perpetual, task_id) or half_ended(perpetual, task_id, status) is not None


def _not_ended(perpetual: Perpetual, task_id: str) -> str:
    """The reason for which a task was not ended: how it has ended, or that nothing is known of it."""
    known = perpetual.completion(task_id)
    if known.final and known.status != UNKNOWN:
        when = shown(known.finished_at) or "at an unknown time"
        return f"was not ended: it has ended before, as {known.status}, {when}"
    if can_be_ended(perpetual, task_id):
        return "was not ended: it was not known yet when this command asked; repeat it"
    return "was not ended: nothing is known of it"


@verb
@some_task_ids
@a_reason
@no_question
@as_json
def recover(perpetual: Perpetual, task_ids: tuple[str, ...], reason: str, json_: bool) -> None:
    """Let parked tasks run again. Exit code 1 if one of them is not parked.

    Example: celery -A proj perpetual recover ID --reason "disk has room"
    """
    _end(
        lambda ids: perpetual.recover(ids, reason=reason), task_ids, json_, "recovered", "runs again",
        lambda _: "is not parked",
    )  # fmt: skip


@verb
@some_task_ids
@a_reason
@a_yes
@as_json
def release(perpetual: Perpetual, task_ids: tuple[str, ...], reason: str, yes: bool, json_: bool) -> None:
    """Take the leases of running tasks away and resend the tasks. Exit code 1 if one of them holds none.

    Example: celery -A proj perpetual release ID --yes
    """
    agreed = None
    if not yes:
        question = "Take the lease of {those} away? The result is dropped, and the task is resent."
        agreed = ask_about(task_ids, "task", lambda each: lease_of(perpetual.store, each) is not None, question)
    _end(
        lambda ids: perpetual.release(ids, reason=reason), task_ids, json_, "released", "is resent",
        lambda _: "holds no lease", agreed,
    )  # fmt: skip


@verb
@some_task_ids
@click.option("--reason", required=True, help="Why; the waiters of the task get this text.")
@a_once
@a_yes
@as_json
def fail(perpetual: Perpetual, task_ids: tuple[str, ...], reason: str, once: bool, yes: bool, json_: bool) -> None:
    """End tasks as failed. Exit code 1 if one of them has ended before, or is unknown.

    Polls leave the key of an item out until it is allowed (`allow TASK KEY`).

    Example: celery -A proj perpetual fail ID --reason "bad address" --yes
    """
    agreed = None
    if not yes:
        question = f"End {{those}} as failed? {about_key(once)}"
        agreed = ask_about(task_ids, "task", partial(_may_be_ended, perpetual, FAILURE), question)
    _end(
        lambda ids: perpetual.fail(ids, reason, once), task_ids, json_, "failed", "has failed",
        partial(_not_ended, perpetual), agreed,
    )  # fmt: skip


@verb
@some_task_ids
@a_once
@a_reason
@a_yes
@as_json
def cancel(perpetual: Perpetual, task_ids: tuple[str, ...], once: bool, reason: str, yes: bool, json_: bool) -> None:
    """End tasks as revoked, running or not. Exit code 1 if one of them has ended before, or is unknown.

    Polls leave the key of an item out until it is allowed (`allow TASK KEY`).

    Example: celery -A proj perpetual cancel ID --once --yes
    """
    agreed = None
    if not yes:
        question = f"Cancel {{those}}? {about_key(once)}"
        agreed = ask_about(task_ids, "task", partial(_may_be_ended, perpetual, REVOKED), question)
    _end(
        lambda ids: perpetual.cancel(ids, once, reason=reason), task_ids, json_, "cancelled", "is revoked",
        partial(_not_ended, perpetual), agreed,
    )  # fmt: skip


@verb
@some_task_ids
@a_reason
@no_question
@as_json
def retry(perpetual: Perpetual, task_ids: tuple[str, ...], reason: str, json_: bool) -> None:
    """Enqueue items again that have not succeeded. Exit code 1 if one of them was not enqueued.

    Each has a new id, and the completion of the new task names the old one (`replay_of`).

    Example: celery -A proj perpetual retry ID
    """
    _end(
        lambda ids: perpetual.retry(ids, reason=reason), task_ids, json_, "retried", "is enqueued again",
        lambda _: "was not enqueued: its key is in flight, its unit has no room, or a poll of it is under way",
    )  # fmt: skip


@verb
@argument("poll_id", "Id of a poll, as `polls --json` shows it.", metavar="POLL")
@click.option("--all", "all_", is_flag=True, help="Also those that have succeeded, as far as their records are there.")
@a_reason
@no_question
@as_json
def replay(perpetual: Perpetual, poll_id: str, all_: bool, reason: str, json_: bool) -> None:
    """Enqueue items of a poll again that have not succeeded. Exit code 1 if none was enqueued.

    Example: celery -A proj perpetual replay POLL --reason "the bank is back"
    """
    outcome = perpetual.replay(poll_id, only_failed=not all_, reason=reason)
    answer(outcome.to_dict(), in_one_line(outcome), json_)
    sys.exit(0 if outcome.count else 1)


def _each_in_parts(act: Callable[[list[str]], list[Forced]], ids: Sequence[str], *, quiet: bool) -> list[Forced]:
    """Call a verb for at most 50 tasks at a time, and show on a terminal how far it is; for none it is called too."""
    results: list[Forced] = []
    for at in range(0, max(1, len(ids)), MOST):
        results += act(list(ids[at : at + MOST]))
        if len(ids) > MOST and not quiet and sys.stderr.isatty():
            click.echo(f"\r{len(results)} of {len(ids)}", err=True, nl=len(results) == len(ids))
    return results


VERBS: tuple[click.Command, ...] = (leases, parked, workers, recover, release, fail, cancel, retry, replay)
